package main

// slack, with codes in chat: for people who come from the original service, whose
// human side was a message in Slack.
//
// It undoes a promise of this project: a code that is typed into a chat is plain text
// to the company that runs it, to the workspace's owners, to whoever reads along and
// to whatever app may read the channel. So it exists only for who has written down
// that they know, in a whole sentence, and it says so each time.
//
// What stays: the prompt is verified, by this responder, before it is posted; the code
// is taken for the attempt that was posted, from a listed person, in that message's
// thread; its form and, where it must be typed, the match code are checked; and what
// leaves here is sealed to that one job.
//
// Socket Mode is Slack's way to reach a program behind a firewall: it asks for a
// websocket's address, and gets events there, each to be acknowledged.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

const (
	// codesSentence must be written down to have it.
	codesSentence = "slack can read every code"

	maxEnvelope = 256 << 10
	mostEvents  = 64
	mostUsers   = 64
	// pingEvery finds out that a connection is dead.
	pingEvery = 30 * time.Second
)

// slackCodes is a way to ask that takes a thread's replies.
type slackCodes struct {
	*chime
	room  *slackRoom
	app   *slackClient // with the app-level token
	users []string

	seen []string // messages that were taken in: Slack repeats events
	told []string // threads in which somebody else was told that nothing is taken of theirs
}

// newSlackCodes gives nil where codes in chat are not wanted.
func newSlackCodes(sur surroundings, set slackSettings, room *slackRoom, b *chime) (*slackCodes, error) {
	if set.Codes == "" {
		if set.AppToken.given() || len(set.Users) > 0 {
			return nil, errors.New("`app-token` and `users` are for codes that are typed into Slack, and `codes-in-chat` does not say that you want that")
		}
		return nil, nil
	}
	if set.Codes != codesSentence {
		return nil, fmt.Errorf("codes-in-chat: a code that is typed into Slack is plain text to Slack; if you know that and want it, the value is exactly this sentence: %q", codesSentence)
	}
	if len(set.Users) == 0 || len(set.Users) > mostUsers {
		return nil, fmt.Errorf("users: name 1 to %d Slack users by their ids (U…) whose replies are taken as yours", mostUsers)
	}
	for _, u := range set.Users {
		if !slackUser.MatchString(u) {
			return nil, fmt.Errorf("users: %s is no user's id, which begins with U or W and stands in their profile", wire.CleanName(u, 40))
		}
	}
	token, err := set.AppToken.read(sur, false)
	if err != nil {
		return nil, fmt.Errorf("app-token: %w", err)
	}
	c := &slackCodes{chime: b, room: room, app: &slackClient{room.api.out, room.api.base, token}, users: set.Users}
	b.alone, b.tail = true, c.howTo
	b.tell("codes that are typed into Slack are taken: Slack can read every code")
	return c, nil
}

// howTo says what a reply has to be.
func (c *slackCodes) howTo(p answer.Prompt) string {
	const warn = "Slack can read what you type here."
	match := ""
	if p.Match != "" {
		match = fmt.Sprintf("Match code %s: the job's log must show the same. ", p.Match)
	}
	switch {
	case p.Ask == wire.AskLink:
		return "A link is followed from your responder only."
	case p.Yes:
		return "Or reply in this thread with the match code from the job's log, which is your yes, or with: decline. " + warn
	case p.TypeMatch:
		return fmt.Sprintf("Or reply in this thread with the match code from the job's log, a space, and the code (%s), or with: decline. %s", p.Format, warn)
	}
	return fmt.Sprintf("%sOr reply in this thread with the code (%s), or with: decline. %s", match, p.Format, warn)
}

// Ask is answer.Asker's.
func (c *slackCodes) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	listening, stop := context.WithCancel(ctx)
	events := make(chan slackEvent, mostEvents)
	done := make(chan struct{}, 2)
	go func() {
		c.listen(listening, events)
		done <- struct{}{}
	}()
	go func() {
		for {
			select {
			case e := <-events:
				c.take(listening, e, desk)
			case <-listening.Done():
				done <- struct{}{}
				return
			}
		}
	}()
	err := c.chime.Ask(ctx, news, desk)
	stop()
	<-done
	<-done
	return err
}

// slackEnvelope is what comes through the websocket.
type slackEnvelope struct {
	Type     string `json:"type"`
	Envelope string `json:"envelope_id"`
	Payload  struct {
		Event slackEvent `json:"event"`
	} `json:"payload"`
}

// slackEvent is a message that somebody wrote.
type slackEvent struct {
	Type     string `json:"type"`
	Subtype  string `json:"subtype"`
	Bot      string `json:"bot_id"`
	User     string `json:"user"`
	Channel  string `json:"channel"`
	Text     string `json:"text"`
	TS       string `json:"ts"`
	ThreadTS string `json:"thread_ts"`
}

var slackEnvelopeID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// listen keeps a websocket, until ctx ends.
func (c *slackCodes) listen(ctx context.Context, events chan<- slackEvent) {
	pause, ill := time.Duration(0), false
	for ctx.Err() == nil {
		greeted, err := c.connection(ctx, events, func() {
			if ill {
				ill = false
				c.complain("Slack: replies are taken again")
			}
		})
		if ctx.Err() != nil {
			return
		}
		if greeted && err == nil { // Slack has asked for a new one
			pause = 0
			continue
		}
		if greeted {
			pause = 0
		}
		pause = min(max(2*pause, c.pause), longestPause)
		wait := pause
		if u, ok := errors.AsType[*unsent](err); ok {
			wait = max(wait, u.wait)
		}
		c.log.Info("chat", "way", c.name, "outcome", "not connected", "why", err.Error())
		if !ill && !greeted {
			ill = true
			c.complain(fmt.Sprintf("Slack: replies are not taken: %s; it is tried again", err))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// connection is one websocket's life. greeted: Slack said hello. Without an error Slack
// wants another to be made.
func (c *slackCodes) connection(ctx context.Context, events chan<- slackEvent, hello func()) (greeted bool, err error) {
	opening, stop := context.WithTimeout(ctx, outboundWithin)
	defer stop()
	r, err := c.app.call(opening, "apps.connections.open", nil)
	if err != nil {
		return false, err
	}
	to, err := socketURL(r.URL, c.app.base)
	if err != nil {
		return false, err
	}
	conn, _, err := websocket.Dial(opening, to, &websocket.DialOptions{HTTPClient: c.app.out.client})
	if err != nil {
		// What it says names the address, and that holds a ticket.
		return false, &unsent{why: "its websocket cannot be opened: " + nameless(err)}
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxEnvelope)
	living, end := context.WithCancel(ctx)
	defer end()
	go func() {
		tick := time.NewTicker(pingEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				ping, stop := context.WithTimeout(living, outboundWithin)
				err := conn.Ping(ping)
				stop()
				if err != nil {
					end()
					return
				}
			case <-living.Done():
				return
			}
		}
	}()
	for {
		_, data, err := conn.Read(living)
		if err != nil {
			return greeted, &unsent{why: "its websocket has ended"}
		}
		var e slackEnvelope
		err = json.Unmarshal(data, &e)
		clear(data)
		if err != nil {
			return greeted, &unsent{why: "its websocket says something else than JSON"}
		}
		if slackEnvelopeID.MatchString(e.Envelope) {
			// At once: what is not acknowledged within 3 s is sent again.
			ack, _ := json.Marshal(map[string]string{"envelope_id": e.Envelope})
			writing, stop := context.WithTimeout(living, outboundWithin)
			err := conn.Write(writing, websocket.MessageText, ack)
			stop()
			if err != nil {
				return greeted, &unsent{why: "its websocket has ended"}
			}
		}
		switch e.Type {
		case "hello":
			greeted = true
			hello()
		case "disconnect":
			return true, nil
		case "events_api":
			select {
			case events <- e.Payload.Event:
			default:
				c.complain("Slack: too much is written there at once; some of it was not looked at")
			}
		}
	}
}

// socketURL is where Slack wants to be listened to: at a host of its own.
func socketURL(raw string, base *url.URL) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.Fragment != "" {
		return "", &unsent{why: "what it names as a websocket's address is none"}
	}
	host, of := u.Hostname(), base.Hostname()
	switch {
	case u.Scheme == "wss" && (host == of || strings.HasSuffix(host, "."+of)):
		return raw, nil
	case u.Scheme == "ws" && local(host) && local(of):
		return raw, nil
	}
	return "", &unsent{why: "it names a websocket that is not at " + of + ", which is not spoken to"}
}

// take takes in a message.
func (c *slackCodes) take(ctx context.Context, e slackEvent, desk answer.Decisions) {
	if e.Type != "message" || e.Subtype != "" && e.Subtype != "thread_broadcast" || e.Bot != "" || e.Channel != c.room.channel || !slackTime.MatchString(e.TS) || e.ThreadTS == e.TS {
		return
	}
	p, ok := c.find(ctx, e.ThreadTS)
	if !ok || slices.Contains(c.seen, e.TS) {
		return // a code that is delivered twice must not be the answer to the next attempt
	}
	if c.seen = append(c.seen, e.TS); len(c.seen) > keptTolls {
		c.seen = c.seen[1:]
	}
	if !slices.Contains(c.users, e.User) {
		// People may talk there: they are told once, and nothing of theirs is touched.
		if !slices.Contains(c.told, e.ThreadTS) {
			if c.told = append(c.told, e.ThreadTS); len(c.told) > keptTolls {
				c.told = c.told[1:]
			}
			c.reply(ctx, e.ThreadTS, "nothing was taken: whoever wrote that is not among the responder's `users`. If it was a code, Slack has read it.")
		}
		return
	}
	said := c.decide(ctx, p, spoken(e.Text), desk)
	const read = " Slack has read what you typed; "
	kept := read + "the message was deleted."
	if err := c.room.remove(ctx, e.TS); err != nil {
		kept = read + "this app may not delete your message: do that yourself."
	}
	c.reply(ctx, e.ThreadTS, said+"."+kept)
}

func (c *slackCodes) reply(ctx context.Context, thread, text string) {
	if err := c.room.reply(ctx, thread, text); err != nil {
		c.log.Info("chat", "way", c.name, "outcome", "no reply", "why", err.Error())
	}
}

// decide takes a listed person's reply for what p asked when it was posted, and says
// what became of it.
func (c *slackCodes) decide(ctx context.Context, p answer.Prompt, text string, desk answer.Decisions) string {
	a := answer.Answer{ID: p.ID, Attempt: p.Attempt}
	var err error
	word, rest, _ := strings.Cut(text, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case strings.EqualFold(word, "decline"):
		if err = desk.Decline(ctx, p.ID, rest); err == nil {
			return "declined: your no is on its way"
		}
	case p.Ask == wire.AskLink:
		return "nothing was taken: a link is followed from your responder"
	case p.Yes:
		a.Match = text
		if err = desk.Answer(ctx, a); err == nil {
			return "your yes is signed, and on its way"
		}
	default:
		if a.Code = text; p.TypeMatch {
			a.Match, a.Code = word, rest
		}
		if err = desk.Answer(ctx, a); err == nil {
			return "sealed: only this job can open it, and Slack has read this code"
		}
	}
	return "nothing was sent: " + wire.Clean(firstLine(plain(err)), 300)
}

var slackAuto = regexp.MustCompile(`<(?:tel|mailto|https?):[^|>]*\|([^>]*)>`)

var mrkdwnText = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&")

// spoken is what was typed, without what Slack makes of it: a number can come as a
// telephone's.
func spoken(text string) string {
	text = slackAuto.ReplaceAllString(text, "$1")
	return strings.TrimSpace(strings.Trim(mrkdwnText.Replace(text), "`"))
}
