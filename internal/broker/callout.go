package broker

// Who may connect, and where to. nats-server asks this for each connection that
// is not the relay's own (auth callout): a job shows an ID token whose audience
// names its key, a responder an enrolled key and its signed word that it means
// this relay, a newcomer an invitation's key and the same; all have signed the
// server's nonce. A job that was accepted comes back on its open request and the
// same signed word. Placing a user is this code's own duty: the server's allowed_accounts
// does not stop a callout from minting into the system account.

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

const (
	calloutSubject = "$SYS.REQ.USER.AUTH"
	xkeyHeader     = "Nats-Server-Xkey"

	// calloutWorkers is how many connections are judged at once. The server
	// asks concurrently, but a subscription's callback runs one at a time, and a
	// slow issuer would hold up everybody. More than may wait for one issuer's
	// keys (package trust), so that some are always free.
	calloutWorkers = 64

	// clientSubscriptions is enough for hints, replies and 32 projects.
	clientSubscriptions = 40
	// inviteeSubscriptions is enough for replies.
	inviteeSubscriptions = 4

	// placed begins the name of each user that the callout lets in, so that
	// reports of connections tell clients from relays, whose users are keys too.
	placed = "cfa:"

	// deskLasts is how long a responder's connection lasts before it must show
	// again that it is enrolled.
	deskLasts = 12 * time.Hour
)

// atDoor is one question of the callout's, with when it came: waiting for a worker is a
// part of admission.
type atDoor struct {
	m  *nats.Msg
	at time.Time
}

// asked takes a question in. The relay may be starting still: then it waits for
// the workers, as whoever it is about does.
func (r *Relay) asked(m *nats.Msg) {
	q := atDoor{m, r.now()}
	if r.ctx.Err() == nil {
		select {
		case r.door <- q:
			return
		case <-r.ctx.Done():
		}
	}
	// Whom nobody answers keeps an embedded server from ending until its own
	// time limit, so this goes on when the workers have ended.
	if r.judging.Load() {
		r.callout(q.m, q.at)
	}
}

func (r *Relay) serveCallout() error {
	r.judging.Store(true)
	for range calloutWorkers {
		r.goDo(func() {
			for r.ctx.Err() == nil {
				select {
				case q := <-r.door:
					r.callout(q.m, q.at)
				case <-r.ctx.Done():
				}
			}
			for {
				select {
				case q := <-r.door:
					r.callout(q.m, q.at)
				default:
					return
				}
			}
		})
	}
	if r.net.server != nil {
		return r.net.listen() // it asks already
	}
	// Where the servers are others' and ask from their own start on, nobody is let
	// in before there is somebody to answer their messages.
	sub, err := r.net.callout.QueueSubscribe(calloutSubject, "relay", r.asked)
	if err != nil {
		return fmt.Errorf("subscribe to the auth callout: %w", err)
	}
	r.takes = append(r.takes, sub) // of an embedded server nobody else would answer
	return r.net.callout.Flush()
}

// callout answers one question of the server's, which came at that time. No
// answer is a refusal too.
func (r *Relay) callout(m *nats.Msg, at time.Time) {
	data := m.Data
	serverKey := m.Header.Get(xkeyHeader)
	if r.net.xkey != nil {
		if serverKey == "" {
			r.log.Error("the server's auth callout is not encrypted, though nats.xkey is set; nobody is let in")
			return
		}
		opened, err := r.net.xkey.Open(data, serverKey)
		if err != nil {
			r.log.Error("the auth callout does not decrypt; is auth_callout.xkey the public half of nats.xkey?")
			return
		}
		data = opened
	}
	req, err := jwt.DecodeAuthorizationRequestClaims(string(data))
	if err != nil {
		r.log.Error("the auth callout's question cannot be read", "error", err)
		return
	}
	resp := jwt.NewAuthorizationResponseClaims(req.UserNkey)
	resp.Audience = req.Server.ID
	resp.IssuerAccount = r.net.asked
	ctx, cancel := context.WithTimeout(r.ctx, 20*time.Second)
	defer cancel()
	user, what, err := r.admit(ctx, req)
	r.meters.judged(what, r.now().Sub(at), err)
	key := req.ConnectOptions.Nkey
	if wire.CheckConnectKey(key) != nil {
		key = "" // it may be a seed, or a token
	}
	if err != nil {
		resp.Error = "refused"
		r.log.Info("decision", "what", "connect", "as", what, "key", key, "outcome", "refused", "why", logged(err))
		r.recordNotLetIn(key, err)
	} else if resp.Jwt, err = user.Encode(r.net.users); err != nil {
		resp.Jwt, resp.Error = "", "refused"
		r.log.Error("cannot sign a user", "error", err)
	} else {
		r.log.Debug("decision", "what", "connect", "as", what, "key", key, "outcome", "accepted")
	}
	out, err := resp.Encode(r.net.issuer)
	if err != nil {
		r.log.Error("cannot sign the callout's answer", "error", err)
		return
	}
	answer := []byte(out)
	if r.net.xkey != nil {
		if answer, err = r.net.xkey.Seal(answer, serverKey); err != nil {
			r.log.Error("cannot encrypt the callout's answer", "error", err)
			return
		}
	}
	if err := m.Respond(answer); err != nil {
		r.log.Warn("callout's answer not sent", "error", err)
	}
}

// admit decides on one connection, in this order: what kind it is, that it holds
// its key, and then what it may do with it.
func (r *Relay) admit(ctx context.Context, req *jwt.AuthorizationRequestClaims) (*jwt.UserClaims, string, error) {
	if req.ClientInformation.Kind != "Client" {
		return nil, "unknown", fmt.Errorf("a connection of kind %q", wire.CleanName(req.ClientInformation.Kind, 40))
	}
	if t := req.ClientInformation.Type; t != "nats" && t != "websocket" {
		return nil, "unknown", fmt.Errorf("a connection of type %q", wire.CleanName(t, 40))
	}
	o := req.ConnectOptions
	if o.Username != "" || o.Password != "" {
		return nil, "unknown", errors.New("a user name or password was given")
	}
	if err := possession(o, req.ClientInformation.Nonce); err != nil {
		return nil, "unknown", err
	}
	user := jwt.NewUserClaims(req.UserNkey)
	user.Name = placed + o.Nkey
	r.net.place(user)
	user.Limits.Subs = clientSubscriptions
	user.Limits.Payload = wire.MaxMessage
	user.Permissions.Sub.Allow.Add(wire.InboxPrefix(o.Nkey) + ".>")
	rules := r.rules.Load()
	// An enrolled key is a responder's whatever comes with it: a server that passes
	// on another's nonce could else log in under that key as a job, with an ID token
	// of its own making for it. No ID token begins with a brace, and each envelope does.
	says := strings.HasPrefix(o.Token, "{")
	d := rules.config.desks[o.Nkey]
	if d == nil {
		// An invitation's neither.
		if _, invited := r.store.invitation(o.Nkey, r.now()); invited {
			return r.placeNewcomer(user, o)
		}
	}
	switch {
	case d == nil && o.Token == "":
		return nil, "responder", errors.New("no such connecting key is enrolled, and no ID token came with it")
	case d == nil && says:
		if err := r.readmit(o); err != nil {
			return nil, "job", err
		}
		r.placeJob(user, o.Nkey)
		return user, "job", nil
	case d != nil && o.Token == "":
		return nil, "responder", errors.New("the responder does not say which relay it means, so another relay could have passed its signature on; upgrade it")
	case d != nil && !says:
		return nil, "responder", errors.New("an ID token came with an enrolled responder's key; another server may have passed its signature on")
	case d != nil:
		if err := wire.CheckConnect(o.Token, o.Nkey, rules.config.Host, r.now()); err != nil {
			return nil, "responder", err
		}
		user.Permissions.Pub.Allow.Add(wire.DeskSubject(o.Nkey, ">"))
		for _, p := range d.projects {
			user.Permissions.Sub.Allow.Add(wire.ProjectSubject(p))
		}
		user.Expires = r.now().Add(deskLasts).Unix()
		return user, "responder", nil
	}
	job, err := rules.verifier.Verify(ctx, trust.Evidence{Key: o.Nkey, Token: o.Token})
	if err != nil {
		return nil, "job", err
	}
	if job.Bound { // another's is made before its job runs, and says nothing of clocks
		now := r.now()
		r.meters.offsets.note(job.Issuer.URL, now.Sub(job.IssuedAt), now)
	}
	r.placeJob(user, o.Nkey)
	return user, "job", nil
}

// placeNewcomer says what somebody with an invitation may do: one message, and its
// reply. Then it is closed, as a job is that does not ask.
func (r *Relay) placeNewcomer(user *jwt.UserClaims, o jwt.ConnectOptions) (*jwt.UserClaims, string, error) {
	if !strings.HasPrefix(o.Token, "{") {
		return nil, "invited", errors.New("with an invitation's key came no word of which relay is meant")
	}
	if err := wire.CheckConnect(o.Token, o.Nkey, r.rules.Load().config.Host, r.now()); err != nil {
		return nil, "invited", err
	}
	user.Permissions.Pub.Allow.Add(wire.DeskSubject(o.Nkey, wire.VerbJoin))
	user.Limits.Subs = inviteeSubscriptions
	user.Expires = r.now().Add(2 * idleAfter).Unix()
	return user, "invited", nil
}

// placeJob says what a job may do.
func (r *Relay) placeJob(user *jwt.UserClaims, key string) {
	user.Permissions.Pub.Allow.Add(wire.JobSubject(key, ">"))
	// As long as its longest request: who connects has been proved, and each step
	// is signed. What expires is closed by the server on the second.
	user.Expires = r.now().Add(wire.LongestWait + time.Hour).Unix()
}

// readmit says whether a job comes back: whoever holds the key of an open request
// is the job that an ID token spoke for when it was accepted, since that key was
// made for this one request, and all that a connection gives it, beyond reading
// how the request stands, is signed by that key or needs a token after all. So
// thousands that have lost the same relay cost no token and no issuer's key, and,
// by the index, no read: who has no request open here waits for nothing either.
// What the index lacks, or has seen end, is for a token to prove.
func (r *Relay) readmit(o jwt.ConnectOptions) error {
	if _, open := r.store.recent(o.Nkey); !open {
		return errors.New("no such connecting key is enrolled, and no request is open under it; a job shows its ID token")
	}
	return wire.CheckConnect(o.Token, o.Nkey, r.rules.Load().config.Host, r.now())
}

// possession checks that the connection holds the key that it names.
func possession(o jwt.ConnectOptions, nonce string) error {
	if wire.CheckConnectKey(o.Nkey) != nil {
		return errors.New("no connecting key was shown")
	}
	// The server tells the nonce only where a signature came.
	if o.SignedNonce == "" {
		return errors.New("the nonce is not signed by the key that was shown")
	}
	if nonce == "" {
		return errors.New("the server offered no nonce; configure the callout's user as an nkey user there")
	}
	sig, err := base64.RawURLEncoding.DecodeString(o.SignedNonce)
	if err != nil {
		if sig, err = base64.StdEncoding.DecodeString(o.SignedNonce); err != nil {
			return errors.New("the nonce's signature is not base64")
		}
	}
	key, err := nkeys.FromPublicKey(o.Nkey)
	if err != nil {
		return errors.New("no connecting key was shown")
	}
	if key.Verify([]byte(nonce), sig) != nil {
		return errors.New("the nonce is not signed by the key that was shown")
	}
	return nil
}
