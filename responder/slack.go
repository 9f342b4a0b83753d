package main

// slack: a ring in a channel, by an incoming webhook or by an app's bot. A bot's
// message is changed when it is answered or over, and a webhook's stays as it is.
//
// The client is of this project: it calls four methods, and the libraries that there
// are for Slack bring all of its hundreds.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

// slackSettings is the part `slack`.
type slackSettings struct {
	Webhook secret `yaml:"webhook,omitempty"` // an incoming webhook's URL

	Token   secret `yaml:"token,omitempty"` // a bot's, xoxb-…
	Channel string `yaml:"channel,omitempty"`
	API     string `yaml:"api,omitempty"` // if it is not Slack's own: GovSlack's

	Private []string `yaml:"private,omitempty"`
	Page    string   `yaml:"page,omitempty"`

	// Codes in chat: see slackcodes.go.
	Codes    string   `yaml:"codes-in-chat,omitempty"`
	AppToken secret   `yaml:"app-token,omitempty"` // xapp-…, for Socket Mode
	Users    []string `yaml:"users,omitempty"`     // whose replies are taken, U…
}

const slackAPI = "https://slack.com/api/"

var (
	slackChannel = regexp.MustCompile(`^[CGD][A-Z0-9]{6,20}$`)
	slackUser    = regexp.MustCompile(`^[UW][A-Z0-9]{6,20}$`)
)

func openSlack(sur surroundings, part func(any) error) (answer.Asker, error) {
	var set slackSettings
	if err := part(&set); err != nil {
		return nil, err
	}
	private, err := privately(set.Private)
	if err != nil {
		return nil, err
	}
	out := newOutbound(sur.env, private)
	page, err := pageOf(set.Page)
	if err != nil {
		return nil, err
	}
	switch {
	case set.Webhook.given() == set.Token.given():
		return nil, errors.New("it needs either `webhook`, an incoming webhook's URL, or `token`, a bot's, with `channel`: each as {file: NAME} or {env: NAME}")
	case set.Webhook.given():
		if set.Channel != "" || set.Codes != "" || set.AppToken.given() || len(set.Users) > 0 || set.API != "" {
			return nil, errors.New("with `webhook` there is nothing else to say but `page`: its channel is fixed, and it can only ring")
		}
		raw, err := set.Webhook.read(sur, false)
		if err != nil {
			return nil, fmt.Errorf("webhook: %w", err)
		}
		u, err := hookURL(raw)
		if err != nil {
			return nil, fmt.Errorf("webhook: %w", err)
		}
		b := newChime("Slack", sur, &slackHook{out, u.String()})
		b.fixed, b.page = true, page
		return b, nil
	}
	token, err := set.Token.read(sur, false)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if !slackChannel.MatchString(set.Channel) {
		return nil, errors.New("channel: write the channel's id, C…, which stands at the end of its details in Slack; a name can be given to another channel")
	}
	api := set.API
	if api == "" {
		api = slackAPI
	}
	base, err := hookURL(api)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	room := &slackRoom{api: &slackClient{out, base, token}, channel: set.Channel, page: page}
	b := newChime("Slack", sur, room)
	b.page = page
	codes, err := newSlackCodes(sur, set, room, b)
	if err != nil {
		return nil, err
	}
	if codes == nil {
		return b, nil
	}
	return codes, nil
}

// slackHook is an incoming webhook.
type slackHook struct {
	out *outbound
	url string
}

func (h *slackHook) say(ctx context.Context, n note) (string, error) {
	body, err := json.Marshal(slackText(n))
	if err != nil {
		return "", &unsent{why: err.Error()}
	}
	_, err = h.out.send(ctx, http.MethodPost, h.url, http.Header{"Content-Type": {"application/json; charset=utf-8"}}, body)
	return "", err
}

func (h *slackHook) change(context.Context, string, note) error {
	return &unsent{why: "it cannot be changed"}
}

// slackRoom is a channel in which a bot writes.
type slackRoom struct {
	api     *slackClient
	channel string
	page    string
}

func (r *slackRoom) say(ctx context.Context, n note) (string, error) {
	m := slackText(n)
	m.Channel = r.channel
	reply, err := r.api.call(ctx, "chat.postMessage", m)
	if err == nil && !slackTime.MatchString(reply.TS) {
		err = &unsent{why: "it does not say which message it made"}
	}
	return reply.TS, err
}

func (r *slackRoom) change(ctx context.Context, handle string, n note) error {
	m := slackText(n)
	m.Channel, m.TS = r.channel, handle
	m.UnfurlLinks, m.UnfurlMedia, m.Mrkdwn = nil, nil, nil // which it does not know
	_, err := r.api.call(ctx, "chat.update", m)
	return err
}

// reply answers in a message's thread.
func (r *slackRoom) reply(ctx context.Context, thread, text string) error {
	m := slackText(note{Text: text})
	m.Channel, m.ThreadTS = r.channel, thread
	_, err := r.api.call(ctx, "chat.postMessage", m)
	return err
}

// remove deletes a message.
func (r *slackRoom) remove(ctx context.Context, ts string) error {
	_, err := r.api.call(ctx, "chat.delete", slackMessage{Channel: r.channel, TS: ts})
	return err
}

// slackTime is a message's name in its channel.
var slackTime = regexp.MustCompile(`^[0-9]{1,12}\.[0-9]{1,9}$`)

// slackMessage is a message as Slack takes it.
type slackMessage struct {
	Channel  string       `json:"channel,omitempty"`
	TS       string       `json:"ts,omitempty"`
	ThreadTS string       `json:"thread_ts,omitempty"`
	Text     string       `json:"text,omitempty"`
	Blocks   []slackBlock `json:"blocks,omitempty"`
	Parse    string       `json:"parse,omitempty"`

	UnfurlLinks *bool `json:"unfurl_links,omitempty"`
	UnfurlMedia *bool `json:"unfurl_media,omitempty"`
	Mrkdwn      *bool `json:"mrkdwn,omitempty"`
}

type slackBlock struct {
	Type     string         `json:"type"`
	Elements []slackElement `json:"elements,omitempty"`
}

type slackElement struct {
	Type     string         `json:"type"`
	Elements []slackElement `json:"elements,omitempty"`
	Text     string         `json:"text,omitempty"`
	URL      string         `json:"url,omitempty"`
}

// slackText is what n says, as rich text: in that, text is text, and nothing is looked
// for in it. What notifications show stands beside it, with all that Slack would read
// as markup escaped.
func slackText(n note) slackMessage {
	no := false
	parts := []slackElement{{Type: "text", Text: n.Text}}
	if before, after, ok := strings.Cut(n.Text, n.Page); ok && n.Page != "" {
		parts = []slackElement{{Type: "text", Text: before}, {Type: "link", URL: n.Page, Text: n.Page}}
		if after != "" {
			parts = append(parts, slackElement{Type: "text", Text: after})
		}
	}
	return slackMessage{
		Text: mrkdwn(n.Text), Parse: "none", UnfurlLinks: &no, UnfurlMedia: &no, Mrkdwn: &no,
		Blocks: []slackBlock{{Type: "rich_text", Elements: []slackElement{{Type: "rich_text_section", Elements: parts}}}},
	}
}

var mrkdwnEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// mrkdwn escapes text: without angle brackets it holds no link and no mention.
func mrkdwn(s string) string { return mrkdwnEscapes.Replace(s) }

// slackClient calls Slack's methods.
type slackClient struct {
	out   *outbound
	base  *url.URL
	token string
}

type slackReply struct {
	OK    bool   `json:"ok"`
	Error string `json:"error"`
	TS    string `json:"ts"`
	URL   string `json:"url"`
}

func (c *slackClient) call(ctx context.Context, method string, in any) (r slackReply, err error) {
	header := http.Header{"Authorization": {"Bearer " + c.token}, "Content-Type": {"application/x-www-form-urlencoded"}}
	var body []byte
	if in != nil {
		header.Set("Content-Type", "application/json; charset=utf-8")
		if body, err = json.Marshal(in); err != nil {
			return r, &unsent{why: err.Error()}
		}
	}
	got, err := c.out.send(ctx, http.MethodPost, c.base.JoinPath(method).String(), header, body)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(got, &r); err != nil {
		return r, &unsent{why: "it answers with something else than JSON"}
	}
	if !r.OK {
		return r, &slackError{method, wire.CleanName(r.Error, 60)}
	}
	return r, nil
}

// slackError is a refusal of Slack's, by its name.
type slackError struct{ method, name string }

// slackHints say what a human can do about some of them.
var slackHints = map[string]string{
	"invalid_auth": "the token is not valid", "not_authed": "the token is not valid", "account_inactive": "the token's app or user is gone",
	"token_revoked": "the token was revoked", "missing_scope": "the app lacks a scope: chat:write, and for Socket Mode connections:write on its app-level token",
	"channel_not_found": "there is no such channel, or the bot is not in it: invite it", "not_in_channel": "the bot is not in the channel: invite it",
	"is_archived": "the channel is archived",
}

func (e *slackError) Error() string {
	s := fmt.Sprintf("%s is refused: %s", e.method, e.name)
	if hint := slackHints[e.name]; hint != "" {
		s += " (" + hint + ")"
	}
	return s
}
