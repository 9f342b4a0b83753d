package acme

// certmagic logs by zap; the relay's log is the standard library's. What is told
// here in words of our own, or happens all the time, is for --verbose.

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/continuousauth/action/internal/wire"
)

func zapLog(log *slog.Logger) *zap.Logger { return zap.New(&core{log: log}) }

type core struct {
	log    *slog.Logger
	fields []zapcore.Field
}

// told is what certmagic says of an attempt that failed, several times over: fail
// says it once.
var told = []string{"could not get certificate from issuer", "will retry", "validating authorization", "challenge failed", "job failed"}

func level(e zapcore.Entry) slog.Level {
	if e.Level >= zapcore.ErrorLevel && !slices.Contains(told, e.Message) {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// Enabled lets everything through to Check, which knows the message.
func (c *core) Enabled(zapcore.Level) bool { return true }

// With gives the fields to each entry.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log, fields: slices.Concat(c.fields, fields)}
}

// Check says whether an entry is written.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.log.Enabled(context.Background(), level(e)) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write writes an entry. Its fields hold an authority's words, of any length.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(c.fields, fields) {
		f.AddTo(enc)
	}
	c.log.Log(context.Background(), level(e), "certmagic: "+wire.Clean(e.Message, maxSaid), "of", e.LoggerName, "details", wire.Clean(fmt.Sprint(enc.Fields), 2*maxSaid))
	return nil
}

// Sync has nothing to do.
func (c *core) Sync() error { return nil }
