package main

// webhook: a ring by one HTTP request: to ntfy, Gotify, Discord, Matrix, or to whatever
// a template of the human's own fits.
//
// A template gets the fields of a note and nothing else, and must write JSON with
// quotes and line breaks in any of them: that is tried with the worst ones when the
// program starts, since the day on which a workflow has a quote in its name is the
// wrong one to find out.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

const (
	mostHooks    = 8
	maxTemplate  = 4 << 10
	maxHookBytes = 8 << 10
)

// hookSettings is one entry of `webhook`.
type hookSettings struct {
	Preset   string   `yaml:"preset,omitempty"`
	URL      secret   `yaml:"url"`
	Token    secret   `yaml:"token,omitempty"`
	Room     string   `yaml:"room,omitempty"`     // Matrix's
	Template string   `yaml:"template,omitempty"` // of the body, where there is no preset
	Type     string   `yaml:"type,omitempty"`     // of what the template makes
	Private  []string `yaml:"private,omitempty"`  // addresses in private networks that may be spoken to
	Page     string   `yaml:"page,omitempty"`     // the human's own page
}

// preset is a kind of server.
type preset struct {
	body   string // template
	mime   string
	method string
	// openURL: its address is no secret, because a token stands beside it.
	openURL bool
	needs   []string
	// where is the request's address.
	where func(u *url.URL, room, id string) string
	// sign puts the token on the request.
	sign func(h http.Header, token string)
	// more are headers for a note.
	more func(h http.Header, n note)
}

func bearer(h http.Header, token string) { h.Set("Authorization", "Bearer "+token) }

// presets are those that are known, each from the server's own documentation.
var presets = map[string]preset{
	// https://docs.ntfy.sh/publish/: the body is the message. Markdown is off.
	"ntfy": {
		body: "{{.Text}}", mime: "text/plain; charset=utf-8", openURL: true, sign: bearer,
		more: func(h http.Header, n note) {
			h.Set("Title", n.Title)
			h.Set("Priority", "high")
			if n.Page != "" {
				h.Set("Click", n.Page)
			}
		},
	},
	// https://gotify.net/docs/pushmsg and /docs/msgextras.
	"gotify": {
		body: `{"title": {{json .Title}}, "message": {{json .Text}}, "priority": 8, "extras": {"client::display": {"contentType": "text/plain"}` +
			`{{if .Page}}, "client::notification": {"click": {"url": {{json .Page}}}}{{end}}}}`,
		mime: "application/json", openURL: true, needs: []string{"token"},
		where: func(u *url.URL, _, _ string) string { return u.JoinPath("message").String() },
		sign:  func(h http.Header, token string) { h.Set("X-Gotify-Key", token) },
	},
	// https://discord.com/developers/docs/resources/webhook#execute-webhook. Flag 4: no
	// previews of links; nobody can be mentioned.
	"discord": {
		body: `{"content": {{json (markdown .Text)}}, "flags": 4, "allowed_mentions": {"parse": []}}`, mime: "application/json",
	},
	// https://spec.matrix.org/latest/client-server-api/: the transaction's id makes a
	// second try the same message. m.text has no markup.
	"matrix": {
		body: `{"msgtype": "m.text", "body": {{json .Text}}}`, mime: "application/json", method: http.MethodPut,
		openURL: true, needs: []string{"token", "room"}, sign: bearer,
		where: func(u *url.URL, room, id string) string {
			return u.JoinPath("_matrix/client/v3/rooms", url.PathEscape(room), "send/m.room.message", id).String()
		},
	},
}

// hook is a room that can be rung.
type hook struct {
	out    *outbound
	preset preset
	url    *url.URL
	token  string
	room   string
	text   *template.Template
}

var (
	mimeType   = regexp.MustCompile(`^[a-z]+/[a-z0-9.+-]+(; charset=utf-8)?$`)
	matrixRoom = regexp.MustCompile(`^![A-Za-z0-9._~:=/+-]{1,250}$`)
)

func openWebhook(sur surroundings, part func(any) error) (answer.Asker, error) {
	var all []hookSettings
	if err := part(&all); err != nil {
		return nil, err
	}
	if len(all) == 0 || len(all) > mostHooks {
		return nil, fmt.Errorf("there are %d; name 1 to %d: webhook: [{preset: ntfy, url: {file: ntfy.url}}]", len(all), mostHooks)
	}
	var chimes chorus
	for i, set := range all {
		h, err := newHook(sur, set)
		if err != nil {
			return nil, fmt.Errorf("the %s one: %w", ordinal(i), err)
		}
		name := set.Preset
		if name == "" {
			name = "a webhook"
		}
		b := newChime(name+" at "+h.url.Hostname(), sur, h)
		b.fixed = true
		if b.page, err = pageOf(set.Page); err != nil {
			return nil, err
		}
		chimes = append(chimes, b)
	}
	return chimes, nil
}

func ordinal(i int) string {
	return []string{"first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"}[i]
}

func newHook(sur surroundings, set hookSettings) (*hook, error) {
	p, known := presets[set.Preset]
	switch {
	case set.Preset != "" && !known:
		return nil, fmt.Errorf("preset: %s is none that is known (%s)", wire.CleanName(set.Preset, 40), strings.Join(slices.Sorted(maps.Keys(presets)), ", "))
	case known && (set.Template != "" || set.Type != ""):
		return nil, errors.New("template: a preset has its own; leave one of the two out")
	case !known && set.Template == "":
		return nil, errors.New("it needs a preset or a template")
	case len(set.Template) > maxTemplate:
		return nil, fmt.Errorf("template: at most %d bytes are read", maxTemplate)
	}
	if !known {
		p = preset{body: set.Template, mime: set.Type, sign: bearer}
		if p.mime == "" {
			p.mime = "application/json"
		}
		if !mimeType.MatchString(p.mime) {
			return nil, errors.New("type: write application/json, or another of that form")
		}
	}
	if p.method == "" {
		p.method = http.MethodPost
	}
	for what, given := range map[string]bool{"token": set.Token.given(), "room": set.Room != ""} {
		switch needed := slices.Contains(p.needs, what); {
		case needed && !given:
			return nil, fmt.Errorf("%s: %s needs one", what, set.Preset)
		case what == "room" && given && !needed, what == "token" && given && p.sign == nil:
			return nil, fmt.Errorf("%s: %s takes none", what, set.Preset)
		}
	}
	h := &hook{preset: p, room: set.Room}
	if set.Room != "" && !matrixRoom.MatchString(set.Room) {
		return nil, errors.New("room: write the room's id, as in !abc:example.org; an alias with # is not taken")
	}
	raw, err := set.URL.read(sur, p.openURL && set.Token.given())
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if h.url, err = hookURL(raw); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if set.Token.given() {
		if h.token, err = set.Token.read(sur, false); err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
	}
	private, err := privately(set.Private)
	if err != nil {
		return nil, err
	}
	h.out = newOutbound(sur.env, private)
	h.text, err = template.New("body").Option("missingkey=error").Funcs(template.FuncMap{"json": asJSONText, "markdown": markdown}).Parse(p.body)
	if err != nil {
		return nil, fmt.Errorf("template: %s", wire.Clean(err.Error(), 200))
	}
	if _, err := h.body(worst); err != nil {
		return nil, err
	}
	return h, nil
}

// worst is a note whose every text must be escaped.
var worst = func() note {
	const bad = "\" \\ \n </script> {{.}} ' & *_`"
	return note{
		Title: bad, Text: bad, Sentence: bad, State: bad, What: bad, Repository: bad, Workflow: bad, Ref: bad, Actor: bad, Service: bad, Project: bad,
		Asked: bad, Left: bad, Until: bad, Where: bad, Page: bad, Number: 1, More: 1,
	}
}()

// body is what is sent of n.
func (h *hook) body(n note) ([]byte, error) {
	out := &bounded{left: maxHookBytes}
	if err := h.text.Execute(out, n); out.full || err != nil {
		if out.full {
			return nil, fmt.Errorf("template: it makes more than %d bytes", maxHookBytes)
		}
		return nil, fmt.Errorf("template: %s", wire.Clean(err.Error(), 200))
	}
	if strings.HasPrefix(h.preset.mime, "application/json") && !json.Valid(out.b) {
		return nil, errors.New("template: what it makes is no JSON when a text in it has a quote or a line break; write {{json .Text}}, without quotes round it")
	}
	return out.b, nil
}

func (h *hook) say(ctx context.Context, n note) (string, error) {
	body, err := h.body(n)
	if err != nil {
		return "", &unsent{why: err.Error()}
	}
	header := http.Header{"Content-Type": {h.preset.mime}}
	if h.preset.more != nil {
		h.preset.more(header, n)
	}
	if h.token != "" {
		h.preset.sign(header, h.token)
	}
	to := h.url.String()
	if h.preset.where != nil {
		to = h.preset.where(h.url, h.room, n.id)
	}
	_, err = h.out.send(ctx, h.preset.method, to, header, body)
	return "", err
}

// change is never called: what was sent has been read.
func (h *hook) change(context.Context, string, note) error {
	return &unsent{why: "it cannot be changed"}
}

// asJSONText is a template's json: a value with its quotes.
func asJSONText(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

var marks = regexp.MustCompile("[\\\\`*_~|<>#\\[\\](){}+!:-]")

// markdown is a template's markdown: text that stays text.
func markdown(s string) string { return marks.ReplaceAllString(s, `\$0`) }

// chorus rings several chimes.
type chorus []*chime

// Ask is answer.Asker's.
func (c chorus) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	var couriers []*answer.Courier
	done := make(chan struct{}, len(c))
	for _, b := range c {
		one := answer.NewCourier()
		couriers = append(couriers, one)
		go func() {
			_ = b.Ask(ctx, one.News(ctx), desk) // it has no error
			done <- struct{}{}
		}()
	}
	for n := range news {
		for _, one := range couriers {
			one.Tell(n)
		}
	}
	for _, one := range couriers {
		one.Close()
	}
	for range c {
		<-done
	}
	return nil
}
