package answer

// A source: asked when its human says so, for what they said, and stopped when
// there is no use for it.

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// generator is a source that gives what it is told to.
type generator struct {
	gives func(ctx context.Context, tell func(string)) ([]byte, error)

	mu    sync.Mutex
	asked []string
	gave  [][]byte
}

func (g *generator) Name(service string) string {
	if service == "npm" {
		return "1Password"
	}
	return ""
}

func (g *generator) Code(ctx context.Context, service string, tell func(string)) ([]byte, error) {
	g.mu.Lock()
	g.asked = append(g.asked, service)
	g.mu.Unlock()
	b, err := g.gives(ctx, tell)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gave = append(g.gave, b)
	return b, err
}

func (g *generator) times() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.asked)
}

func withSource(t *testing.T, gives func(context.Context, func(string)) ([]byte, error)) (*office, *generator) {
	o := inMemory(t)
	g := &generator{gives: gives}
	o.desk.config.Sources = g
	o.run()
	return o, g
}

func gives(code string) func(context.Context, func(string)) ([]byte, error) {
	return func(_ context.Context, tell func(string)) ([]byte, error) {
		tell("touch your key")
		return []byte(code), nil
	}
}

func TestASourcesCodeIsSealedAndForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, g := withSource(t, gives(code))
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		if p := o.human.wait(t, j.ID(), "verified", standing(Verified)); p.Source != "1Password" {
			t.Errorf("the source is called %q", p.Source)
		}
		for _, p := range o.human.shown(j.ID()) {
			if p.Standing != Verified && p.Source != "" {
				t.Errorf("a source is offered for what is %s", p.Standing)
			}
		}
		if n := g.times(); n != 0 {
			t.Fatalf("asked %d times before anybody said so", n)
		}
		if err := o.desk.UseSource(t.Context(), Answer{ID: j.ID(), Attempt: 1}); err != nil {
			t.Fatal(err)
		}
		if c := received(t, j); c != code {
			t.Errorf("the job opened %q", c)
		}
		o.human.noticed(t, func(n string) bool { return n == "1Password: touch your key" })
		if b := g.gave[0]; strings.Trim(string(b), "\x00") != "" {
			t.Errorf("what it gave was kept: %q", b)
		}
		if strings.Contains(o.log.String(), code) || !strings.Contains(o.log.String(), `"source":"1Password"`) {
			t.Errorf("the log:\n%s", o.log)
		}
		o.stop()
	})
}

func TestASourceIsAskedOnlyWhereATypedCodeWouldBeTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, g := withSource(t, gives(code))
		typed := gullibleJob(t, project, repo, func(r *wire.Request) { r.TypeMatch = true })
		foreign := gullibleJob(t, project, "mallory/evil", nil)
		other := gullibleJob(t, project, repo, func(r *wire.Request) { r.Service = "hex" })
		yes := gullibleJob(t, project, repo, o.approval(nil))
		followed := gullibleJob(t, project, repo, link)
		links(followed, npmLink)
		o.relay.Ask(typed)
		o.relay.Ask(foreign)
		o.relay.Ask(other)
		o.relay.Ask(yes)
		o.relay.Ask(followed)
		o.human.wait(t, typed.ID(), "verified", standing(Verified))
		if p := o.human.wait(t, foreign.ID(), "foreign", standing(Foreign)); p.Source != "" {
			t.Error("a source is offered for what does not fit the pins")
		}
		for _, j := range []string{other.ID(), yes.ID(), followed.ID()} {
			if p := o.human.wait(t, j, "verified", standing(Verified)); p.Source != "" {
				t.Errorf("a source is offered for %s of %s", p.Ask, p.Service)
			}
		}
		match := seal.Match(typed.Digest)
		for _, test := range []struct {
			what string
			a    Answer
			want error
		}{
			{"what is over", Answer{ID: "U", Attempt: 1}, ErrNotAnswerable},
			{"what does not fit the pins", Answer{ID: foreign.ID(), Attempt: 1}, ErrNotAnswerable},
			{"another attempt", Answer{ID: typed.ID(), Attempt: 2, Match: match}, ErrNotAnswerable},
			{"no match code", Answer{ID: typed.ID(), Attempt: 1}, ErrMatch},
			{"another's match code", Answer{ID: typed.ID(), Attempt: 1, Match: seal.Match(foreign.Digest)}, ErrMatch},
			{"a service without one", Answer{ID: other.ID(), Attempt: 1, Match: seal.Match(other.Digest)}, ErrSource},
			{"a yes", Answer{ID: yes.ID(), Attempt: 1, Match: seal.Match(yes.Digest)}, ErrSource},
			{"a code besides", Answer{ID: typed.ID(), Attempt: 1, Match: match, Code: code}, ErrSource},
		} {
			if err := o.desk.UseSource(t.Context(), test.a); !errors.Is(err, test.want) {
				t.Errorf("%s: %v", test.what, err)
			}
		}
		if n := g.times(); n != 0 {
			t.Errorf("it was asked %d times", n)
		}
		if err := o.desk.UseSource(t.Context(), Answer{ID: typed.ID(), Attempt: 1, Match: match}); err != nil {
			t.Error(err)
		}
		if c := received(t, typed); c != code {
			t.Errorf("the job opened %q", c)
		}
		o.stop()
	})
}

func TestASourceThatGivesNoCodeSendsNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		gives func(context.Context, func(string)) ([]byte, error)
		want  string
	}{
		"it fails": {func(context.Context, func(string)) ([]byte, error) {
			return nil, errors.New("it failed (exit status 1)")
		}, "exit status 1"},
		"of another form":   {gives("12345"), "what 1Password gave has not the form that was asked for"},
		"several lines":     {gives("493817\n493817"), "not printable"},
		"it gives nothing":  {gives(""), "has not the form"},
		"it is hostile too": {func(context.Context, func(string)) ([]byte, error) { return nil, errors.New("no") }, "no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o, _ := withSource(t, test.gives)
				j := gullibleJob(t, project, repo, nil)
				o.relay.Ask(j)
				o.human.wait(t, j.ID(), "verified", standing(Verified))
				err := o.desk.UseSource(t.Context(), Answer{ID: j.ID(), Attempt: 1})
				if !errors.Is(err, ErrSource) || errors.Is(err, ErrCode) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("said %v", err)
				}
				if n := len(o.relay.Messages(wire.VerbAnswer)); n != 0 {
					t.Errorf("%d answers left", n)
				}
				// A human can still type it, or ask again.
				mustAnswer(t, o, j, 1)
				o.stop()
			})
		})
	}
}

// Whoever looks for a phone while the prompt ends shall not find it for nothing, and
// what comes late goes nowhere.
func TestASourceIsStoppedWhenItsCodeIsOfNoUse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		happens func(o *office, id string, leave func())
		want    string
	}{
		"declined": {func(o *office, id string, _ func()) { _ = o.desk.Decline(context.Background(), id, "") }, ""},
		"typed": {func(o *office, id string, _ func()) {
			_ = o.desk.Answer(context.Background(), Answer{ID: id, Attempt: 1, Code: code})
		}, ""},
		"nobody waits": {func(_ *office, _ string, leave func()) { leave() }, "nobody waits for it any more"},
		"too late":     {func(*office, string, func()) { time.Sleep(time.Hour) }, "it is over"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := make(chan struct{})
				o, _ := withSource(t, func(ctx context.Context, _ func(string)) ([]byte, error) {
					close(began)
					<-ctx.Done()
					return []byte("111111"), nil // it was just about to
				})
				j := gullibleJob(t, project, repo, nil)
				o.relay.Ask(j)
				o.human.wait(t, j.ID(), "verified", standing(Verified))
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				said := make(chan error, 1)
				go func() { said <- o.desk.UseSource(ctx, Answer{ID: j.ID(), Attempt: 1}) }()
				<-began
				if err := o.desk.UseSource(t.Context(), Answer{ID: j.ID(), Attempt: 1}); !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), "already") {
					t.Errorf("a second time: %v", err)
				}
				happened := time.Now()
				test.happens(o, j.ID(), leave)
				if err := <-said; !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("said %v", err)
				}
				if took := time.Since(happened); name != "too late" && took > time.Second {
					t.Errorf("it was stopped after %v", took)
				}
				synctest.Wait()
				for len(j.Got()) > 0 {
					if c := <-j.Got(); c == "111111" {
						t.Error("what came late was sent")
					}
				}
				o.stop()
			})
		})
	}
}
