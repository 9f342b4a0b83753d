package broker

// Enrolment, as an administrator does it: through the relay's socket, which only
// its own user can open.

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

// adminWithin bounds a change of the record.
const adminWithin = 20 * time.Second

func (r *Relay) serveEnrolment(mux *http.ServeMux) {
	answer := func(do func(context.Context, url.Values) (any, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			ctx, cancel := context.WithTimeout(req.Context(), adminWithin)
			defer cancel()
			out, err := do(ctx, req.URL.Query())
			if err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(out); err != nil {
				r.log.Warn("answer not sent", "error", err)
			}
		}
	}
	mux.HandleFunc("GET /v1/responders", answer(func(context.Context, url.Values) (any, error) {
		return r.Responders(), nil
	}))
	mux.HandleFunc("POST /v1/invitations", answer(func(ctx context.Context, v url.Values) (any, error) {
		until, err := strconv.ParseInt(v.Get("until"), 10, 64)
		if err != nil {
			return nil, errors.New("until is not a time")
		}
		return struct{}{}, r.invite(ctx, Invite{Key: v.Get("key"), Project: v.Get("project"), Name: v.Get("name"), Until: time.Unix(until, 0)})
	}))
	mux.HandleFunc("POST /v1/responders/approve", answer(func(ctx context.Context, v url.Values) (any, error) {
		return r.approve(ctx, v.Get("who"), v.Get("project"), v.Get("fingerprint"))
	}))
	mux.HandleFunc("POST /v1/responders/remove", answer(func(ctx context.Context, v url.Values) (any, error) {
		return r.remove(ctx, v.Get("who"), v.Get("project"))
	}))
}

// adminJSON asks a running relay and reads its answer.
func adminJSON(ctx context.Context, data, method, path string, v url.Values, out any) error {
	if len(v) > 0 {
		path += "?" + v.Encode()
	}
	body, err := Admin(ctx, data, method, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return errors.New("the relay's answer is not what this program understands: are both of the same version?")
	}
	return nil
}

// AskInvite has a running relay record an invitation.
func AskInvite(ctx context.Context, data string, i Invite) error {
	var none struct{}
	return adminJSON(ctx, data, http.MethodPost, "/v1/invitations", url.Values{"key": {i.Key}, "project": {i.Project}, "name": {i.Name}, "until": {strconv.FormatInt(i.Until.Unix(), 10)}}, &none)
}

// AskResponders gives a running relay's responders.
func AskResponders(ctx context.Context, data string) (out []Enrollee, err error) {
	return out, adminJSON(ctx, data, http.MethodGet, "/v1/responders", nil, &out)
}

// AskApprove has a running relay enrol who has joined, if the fingerprint is theirs.
func AskApprove(ctx context.Context, data, who, project, fingerprint string) (out Enrollee, err error) {
	return out, adminJSON(ctx, data, http.MethodPost, "/v1/responders/approve", url.Values{"who": {who}, "project": {project}, "fingerprint": {fingerprint}}, &out)
}

// AskRemove has a running relay remove somebody that its record has.
func AskRemove(ctx context.Context, data, who, project string) (out []Enrollee, err error) {
	return out, adminJSON(ctx, data, http.MethodPost, "/v1/responders/remove", url.Values{"who": {who}, "project": {project}}, &out)
}

// Pins is a project's rules as a responder's pins file: what an invitation
// proposes.
func (c *Config) Pins(project string) (string, error) {
	p, ok := c.Projects[project]
	if !ok {
		return "", fmt.Errorf("there is no project %s", wire.CleanName(project, 63))
	}
	type entry struct {
		Name     string   `yaml:"name"`
		Provider string   `yaml:"provider"`
		URL      string   `yaml:"url"`
		IDs      []string `yaml:"ids,omitempty,flow"`
	}
	file := struct {
		Issuers []entry                 `yaml:"issuers,omitempty"`
		Pins    map[string][]trust.Rule `yaml:"pins"`
		Links   map[string][]string     `yaml:"links,omitempty"`
	}{Pins: map[string][]trust.Rule{project: p.CI}}
	if len(p.Links) > 0 {
		file.Links = map[string][]string{project: p.Links}
	}
	needed := map[string]bool{}
	for _, r := range p.CI {
		needed[r.Provider] = true
	}
	for i, e := range c.Issuers {
		// What a CI's own name stands for, each responder knows.
		known := false
		for _, k := range trust.Known() {
			known = known || k.Name == c.issuers[i].Name && k.URL == c.issuers[i].URL
		}
		if name := c.issuers[i].Name; needed[name] && !known {
			file.Issuers = append(file.Issuers, entry{name, e.Provider, c.issuers[i].URL, e.IDs})
		}
	}
	out, err := yaml.Marshal(file)
	return string(out), err
}

// Address is how responders reach the relay, as far as the file says it. status is
// the running relay's, which knows its ports.
func (c *Config) Address(status Status) (string, error) {
	port := func(u string) string {
		if p, err := url.Parse(u); err == nil {
			return p.Port()
		}
		return ""
	}
	switch {
	case c.NATS != nil:
		return "", errors.New("the relay joins a NATS server, and its file does not say how that is reached from outside: give --url")
	case !c.TLS.on() && c.Listen.WebSocket != "" && status.WebSocket != "":
		return status.WebSocket, nil
	case !c.TLS.on():
		return status.NATS, nil
	case status.WebSocket != "":
		// A proxy in front of a plain one is at the usual port.
		if p := port(status.WebSocket); !c.Listen.Plain && p != "443" {
			return "wss://" + net.JoinHostPort(c.Host, p), nil
		}
		return "wss://" + c.Host, nil
	}
	return "tls://" + net.JoinHostPort(c.Host, port(status.NATS)), nil
}

// CertificateHash is the hash of the certificate that a responder must know to
// reach the relay: the last of the chain that the relay shows. It is empty where an
// authority that this machine knows vouches for it, or there is no TLS here.
func (c *Config) CertificateHash(now time.Time) (string, error) {
	if c.TLS.Cert == "" || c.Listen.Plain && c.Listen.WebSocket != "" {
		return "", nil
	}
	data, err := os.ReadFile(c.TLS.Cert)
	if err != nil {
		return "", err
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return "", fmt.Errorf("%s: %w", c.TLS.Cert, err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return "", fmt.Errorf("%s holds no certificate", c.TLS.Cert)
	}
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{DNSName: c.Host, Intermediates: between, CurrentTime: now}); err == nil {
		return "", nil
	} else if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); !unknown {
		return "", fmt.Errorf("the relay's certificate in %s would not be accepted by anybody: %w", c.TLS.Cert, err)
	}
	sum := sha256.Sum256(chain[len(chain)-1].Raw)
	return hex.EncodeToString(sum[:]), nil
}
