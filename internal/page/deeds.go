package page

// What the page can ask for, once it is in: the news, as a stream, and a human's
// decisions, each of which the desk judges.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

// deed is one thing that can be asked for.
type deed struct {
	open  bool // without a session
	idle  bool // it is no sign that a human is there
	here  bool // on the machine's own page only
	phone bool // on a phone's only
	do    func(*call)
}

var deeds = map[string]deed{
	"/api/door":       {open: true, do: door},
	"/api/enter":      {open: true, here: true, do: enter},
	"/api/leave":      {do: leave},
	"/api/news":       {idle: true, do: news},
	"/api/open":       {idle: true, do: open},
	"/api/answer":     {do: give},
	"/api/answer-all": {do: giveAll},
	"/api/follow":     {do: follow},
	"/api/decline":    {do: decline},
	"/api/away":       {do: away},

	"/api/passkey/make":  {open: true, phone: true, do: makePasskey},
	"/api/passkey/made":  {open: true, phone: true, do: madePasskey},
	"/api/passkey/ask":   {open: true, phone: true, do: askPasskey},
	"/api/passkey/given": {open: true, phone: true, do: givenPasskey},
	"/api/ring":          {phone: true, do: ring},
}

// door says how one comes in.
func door(c *call) {
	type phone struct {
		Push string `json:"push"` // the public key with which it is rung, which is no secret
	}
	var d struct {
		Phone *phone `json:"phone,omitempty"`
	}
	if c.page.phone != nil {
		d.Phone = &phone{c.page.phone.store.push.public()}
	}
	reply(c.w, d)
}

// decideWithin bounds one decision, which the desk takes at once.
const decideWithin = 15 * time.Second

// shown is a prompt with its words.
type shown struct {
	answer.Prompt
	Words
}

// news sends what happens, until the session or the program ends.
func news(c *call) {
	select {
	case c.session.slots <- struct{}{}:
		defer func() { <-c.session.slots }()
	default:
		refuse(c.w, http.StatusTooManyRequests, fmt.Sprintf("the page is open in %d tabs already; close one", maxStreams))
		return
	}
	ctx, stop := context.WithCancel(c.r.Context())
	defer stop()
	defer context.AfterFunc(c.session.ends, stop)()
	told, _, err := c.page.lobby.Join(ctx)
	if err != nil {
		return
	}
	rc := http.NewResponseController(c.w)
	// The time in which a request must have come is over; nothing more comes.
	_ = rc.SetReadDeadline(time.Time{})
	c.w.Header().Set("Content-Type", "text/event-stream")
	send := func(event string, v any) bool {
		data, err := json.Marshal(v)
		if err != nil {
			return false
		}
		_ = rc.SetWriteDeadline(time.Now().Add(writeWithin))
		if _, err := fmt.Fprintf(c.w, "event: %s\ndata: %s\n\n", event, data); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	clock := func() any {
		return struct {
			Now time.Time `json:"now"` // so that a phone whose clock is off counts down aright
		}{c.page.now()}
	}
	if !send("hello", clock()) {
		return
	}
	waits := map[string]shown{}
	ticker := time.NewTicker(c.page.tick)
	defer ticker.Stop()
	for {
		select {
		case n, ok := <-told:
			switch {
			case !ok && ctx.Err() == nil:
				send("end", struct{}{})
				return
			case !ok:
				return
			case n.Away != nil:
				ok = send("away", struct {
					Until time.Time `json:"until"`
				}{n.Away.Until})
			case n.Prompt == nil:
				ok = send("notice", struct {
					Text string `json:"text"`
				}{n.Notice})
			default:
				s := shown{*n.Prompt, c.page.config.Describe(*n.Prompt, c.page.now())}
				waits[s.ID] = s
				if s.Phase == answer.Over {
					delete(waits, s.ID)
				}
				ok = send("prompt", s)
			}
			if !ok {
				return
			}
		case <-ticker.C:
			c.page.sessions.check()
			if ctx.Err() != nil || !send("clock", clock()) {
				return
			}
			for id, s := range waits {
				w := c.page.config.Describe(s.Prompt, c.page.now())
				if reflect.DeepEqual(w, s.Words) {
					continue
				}
				s.Words = w
				waits[id] = s
				if !send("prompt", s) {
					return
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// open says that a human is shown these.
func open(c *call) {
	var q struct {
		IDs []string `json:"ids"`
	}
	if !c.takes(&q) {
		return
	}
	for _, id := range q.IDs {
		c.page.desk.Open(id)
	}
	reply(c.w, struct{}{})
}

func give(c *call) {
	var a answer.Answer
	if c.takes(&a) {
		c.decide(func(ctx context.Context) (any, error) { return struct{}{}, c.page.desk.Answer(ctx, a) })
	}
}

// missed is a prompt of a group that got nothing.
type missed struct {
	ID string `json:"id"`
	mistake
}

func giveAll(c *call) {
	var a answer.Together
	if !c.takes(&a) {
		return
	}
	c.decide(func(ctx context.Context) (any, error) {
		left, err := c.page.desk.AnswerAll(ctx, a)
		list := []missed{}
		for _, l := range left {
			list = append(list, missed{l.ID, mistakeOf(l.Err)})
		}
		return struct {
			Left []missed `json:"left"`
		}{list}, err
	})
}

func follow(c *call) {
	var a answer.Answer
	if !c.takes(&a) {
		return
	}
	c.decide(func(ctx context.Context) (any, error) {
		link, err := c.page.desk.Follow(ctx, a)
		return struct {
			Link string `json:"link"`
			Host string `json:"host"`
		}{link, wire.LinkHost(link)}, err
	})
}

func decline(c *call) {
	var q struct {
		ID     string `json:"id"`
		Reason string `json:"reason"`
	}
	if c.takes(&q) {
		c.decide(func(ctx context.Context) (any, error) { return struct{}{}, c.page.desk.Decline(ctx, q.ID, q.Reason) })
	}
}

// away says until when the human is away; the zero time: they are back.
func away(c *call) {
	var q struct {
		Until time.Time `json:"until"`
	}
	if c.takes(&q) {
		c.decide(func(ctx context.Context) (any, error) { return struct{}{}, c.page.desk.Away(ctx, q.Until) })
	}
}

// decide has the desk decide. A browser that goes away meanwhile takes nothing back.
func (c *call) decide(f func(context.Context) (any, error)) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(c.r.Context()), decideWithin)
	defer stop()
	v, err := f(ctx)
	if err != nil {
		write(c.w, http.StatusConflict, mistakeOf(err))
		return
	}
	reply(c.w, v)
}

// mistake is what a human is told of why nothing was sent.
type mistake struct {
	Error string `json:"error"`
	Kind  string `json:"kind,omitempty"` // which field it is about
}

func mistakeOf(err error) mistake {
	m := mistake{Error: strings.ReplaceAll(err.Error(), wire.ErrMalformed.Error()+": ", "")}
	for kind, is := range map[string]error{"code": answer.ErrCode, "match": answer.ErrMatch, "one-each": answer.ErrOneEach} {
		if errors.Is(err, is) {
			m.Kind = kind
		}
	}
	return m
}

func refuse(w http.ResponseWriter, status int, why string) { write(w, status, mistake{Error: why}) }

func reply(w http.ResponseWriter, v any) { write(w, http.StatusOK, v) }

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
