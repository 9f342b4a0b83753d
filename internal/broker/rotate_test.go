package broker

// A responder's next signing key, for which the one before vouches.

import (
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// rotated is the same human with another signing key, and how it succeeds the first.
func (h *human) rotated(t testing.TB) (*human, wire.Succession) {
	t.Helper()
	next := &human{h.name, h.connect, newHuman(t, h.name).sign}
	s, err := wire.SignSuccession(h.sign, next.sign, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return next, s
}

func TestAResponderRotatesItsKeyByItself(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		cleo := newHuman(t, "Cleo")
		for _, project := range []string{"rocket", "boat"} {
			f.come(cleo, f.invited(project, "Cleo"))
			f.approve(cleo)
		}
		// A request that pins the old key, asked before.
		j := f.job(rocketRepo, "rocket")
		j.ask("rocket", func(q *wire.Request) { q.Responders = []string{cleo.signer()} })
		j.connect()
		must(t, j.send(j.nc))
		later, link := cleo.rotated(t)
		last, second := later.rotated(t)
		chain := []wire.Succession{link}
		if r := f.sit(cleo).say(wire.VerbRotate, wire.RotateMessage{Chain: chain}); r.Refused != nil || r.Rotated != later.signer() {
			t.Fatalf("%+v", r)
		}
		// It is one step for all of its projects, and the old key is nobody's.
		for key, d := range f.relay.rules.Load().config.desks {
			if key == cleo.key() && (d.sign != later.signer() || len(d.projects) != 2 || len(d.former) != 1) || d.sign == cleo.signer() {
				t.Errorf("%+v", d)
			}
		}
		seat := f.sit(later)
		if p := seat.pending(); len(p.Items) != 1 {
			t.Errorf("%d requests are listed", len(p.Items))
		}
		old := sign(t, &wire.Decline{Key: cleo.signer(), Digest: j.dig, Attempt: 1}, cleo.sign)
		refused(t, seat.say(wire.VerbDecline, wire.DeclineMessage{Key: j.pub, Decline: old}), wire.RefusedSignature)
		sealed := wire.Sealed{Enc: make([]byte, 32), Ciphertext: make([]byte, 600)}
		a := sign(t, &wire.Answer{Key: later.signer(), Digest: j.dig, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed.Hash(), Chain: chain}, later.sign)
		if s := must(t, seat.say(wire.VerbAnswer, wire.AnswerMessage{Key: j.pub, Answer: a, Sealed: &sealed})); s.By != "Cleo" {
			t.Errorf("%+v", s)
		}
		// The same again; and the next one, with all of the chain or with its end.
		if r := seat.say(wire.VerbRotate, wire.RotateMessage{Chain: chain}); r.Rotated != later.signer() {
			t.Errorf("%+v", r)
		}
		refused(t, seat.say(wire.VerbRotate, wire.RotateMessage{Chain: []wire.Succession{second}}), wire.RefusedNotYours, "does not begin with the key that was enrolled")
		if r := seat.say(wire.VerbRotate, wire.RotateMessage{Chain: append(chain, second)}); r.Rotated != last.signer() {
			t.Errorf("%+v", r)
		}
		// A new request may pin any of the three.
		for _, key := range []string{cleo.signer(), later.signer(), last.signer()} {
			j := f.job(rocketRepo, "rocket")
			j.ask("rocket", func(q *wire.Request) { q.Responders = []string{key} })
			j.connect()
			if s := must(t, j.send(j.nc)); s.Enrolled != 1 {
				t.Errorf("%+v", s)
			}
			must(t, j.cancel())
		}
	})
}

func TestWhatIsNoRotation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	text := f.configText(dir, onLoopback)
	f.start(text, Options{})
	cleo := newHuman(t, "Cleo")
	f.come(cleo, f.invited("rocket", "Cleo"))
	f.approve(cleo)
	seat := f.sit(cleo)
	later, link := cleo.rotated(t)
	thief := newHuman(t, "Thief")
	_, thiefs := thief.rotated(t)
	toAna, err := wire.SignSuccession(cleo.sign, f.ana.sign, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	spoilt := link
	spoilt.Next = thiefs.Next
	for name, c := range map[string]struct {
		chain []wire.Succession
		code  string
	}{
		"nothing":                   {nil, wire.RefusedMalformed},
		"another's chain":           {[]wire.Succession{thiefs}, wire.RefusedNotYours},
		"a key that has not agreed": {[]wire.Succession{spoilt}, wire.RefusedSignature},
		"a key that is somebody's":  {[]wire.Succession{toAna}, wire.RefusedKeyUsed},
		"the chain of two, mixed":   {[]wire.Succession{link, thiefs}, wire.RefusedMalformed},
	} {
		t.Run(name, func(t *testing.T) { refused(t, seat.say(wire.VerbRotate, wire.RotateMessage{Chain: c.chain}), c.code) })
	}
	// The file's are the file's.
	bobs, bobsLink := f.bob.rotated(t)
	refused(t, f.sit(f.bob).say(wire.VerbRotate, wire.RotateMessage{Chain: []wire.Succession{bobsLink}}), wire.RefusedNotYours, "stands in the relay's file", "`cfa-responder keys`")
	// It survives, and is what a restarted relay reads.
	if r := seat.say(wire.VerbRotate, wire.RotateMessage{Chain: []wire.Succession{link}}); r.Rotated != later.signer() {
		t.Fatalf("%+v", r)
	}
	f.relay.Close()
	// Its administrator writes Bob's new key, with the one before.
	f.start(strings.Replace(text, f.bob.yaml(), strings.TrimSuffix(bobs.yaml(), "}")+", former: ["+f.bob.signer()+"]}", 1), Options{})
	if d := f.relay.rules.Load().config.desks[cleo.key()]; d == nil || d.sign != later.signer() {
		t.Errorf("%+v", d)
	}
	bob := f.sit(bobs)
	if r := bob.say(wire.VerbRotate, wire.RotateMessage{Chain: []wire.Succession{bobsLink}}); r.Rotated != bobs.signer() {
		t.Errorf("what the file has already: %+v", r)
	}
	j := f.job(rocketRepo, "rocket")
	j.ask("rocket", func(q *wire.Request) { q.Responders = []string{f.bob.signer()} })
	j.connect()
	if s := must(t, j.send(j.nc)); s.Enrolled != 1 {
		t.Errorf("%+v", s)
	}
	if p := bob.pending(); len(p.Items) != 1 {
		t.Errorf("%d requests are listed", len(p.Items))
	}
	// Who was removed and rotates is not in again.
	if _, err := f.relay.remove(t.Context(), "Cleo", ""); err != nil {
		t.Fatal(err)
	}
	if d := f.relay.rules.Load().config.desks[cleo.key()]; d != nil {
		t.Errorf("%+v", d)
	}
}
