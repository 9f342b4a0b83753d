package main

// join: from a link to an enrolled responder. What the link says of the relay is
// believed as far as it goes: it leads to where its maker wanted. What it says
// stands behind the project is a proposal, which this human confirms as they would
// a pin of their own.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

type joinCmd struct {
	Link string `arg:"" optional:"" help:"The invitation, cfa-join:... Without it, it is asked for: then it stands in no history of commands and in no list of processes."`

	Settings string   `help:"The settings file, into which the relay is written." or:"CFA_SETTINGS" type:"path" placeholder:"FILE"`
	KeyFile  string   `help:"The key file; it is made if it is not there." or:"CFA_KEY_FILE" type:"path" placeholder:"FILE"`
	In       string   `help:"Where new private keys are kept, as keygen takes it. Default: plain in a file that you name; else the keyring, or a file sealed by a passphrase where there is none." enum:",keyring,file,plain" default:"" placeholder:"keyring|file|plain"`
	Pins     string   `help:"The pins file, into which the pins are written that you confirm." or:"CFA_PINS" type:"path" placeholder:"FILE"`
	CAFile   string   `name:"ca-file" help:"Certificates to trust instead of the system's, in PEM." or:"CFA_CA_FILE" type:"path" placeholder:"FILE"`
	Confirm  []string `help:"What stands behind the project, typed already: for scripts. Again for each pin." placeholder:"OWNER/NAME" sep:"none"`
	NoWait   bool     `help:"Do not wait for the administrator."`
}

func (c *joinCmd) Run(ctx context.Context, std stdio, env environ) error {
	link := c.Link
	if link == "" {
		var err error
		if link, err = askUpTo(ctx, std, "The invitation (cfa-join:...): ", 2*wire.MaxInvitation); err != nil {
			return err
		}
	}
	i, err := wire.ParseLink(link)
	if err != nil {
		return usage("%w", err)
	}
	if until := time.Unix(i.Until, 0); !until.After(time.Now()) {
		return usage("this invitation was good until %s; ask for another (or is this computer's clock wrong?)", until.Local().Format("Mon 2 Jan 15:04"))
	}
	invitation, err := i.Key()
	if err != nil {
		return usage("%w", err)
	}
	defer invitation.Wipe()
	settingsFile, err := env.file(c.Settings, "responder.yaml")
	if err != nil {
		return err
	}
	pinsPath, err := env.file(c.Pins, "pins.yaml")
	if err != nil {
		return err
	}
	// Before anything is asked or sent: a file that cannot be read now cannot be
	// written later.
	if _, err := readSettings(settingsFile); err != nil {
		return err
	}
	held, err := readPins(pinsPath)
	if err != nil {
		return err
	}
	next, added, err := held.proposed(i)
	if err != nil {
		return err
	}

	fmt.Fprintf(std.err, "You are invited to the relay %s (%s), as %s, to answer for the project %s.\n", i.Relay, i.URL, i.Name, i.Project)
	if err := c.confirm(ctx, std, i, next, added); err != nil {
		return err
	}
	at := relaySettings{URL: i.URL, TLSName: i.TLSName, CAFile: c.CAFile}
	relay, err := at.reach(ctx, env, i, filepath.Dir(settingsFile))
	if err != nil {
		return reached(err)
	}
	store, err := keyStoreAt(std, env, c.KeyFile)
	if err != nil {
		return err
	}
	k, err := haveKeys(ctx, std, store, c.In)
	if err != nil {
		return err
	}
	chain, err := readChain(env, c.KeyFile, wire.PublicKey(k.sign))
	if err != nil {
		return err
	}
	ask := func(ctx context.Context) (wire.Joined, error) {
		return answer.Join(ctx, relay, k.connect, k.sign, invitation, chain)
	}
	joined, err := ask(ctx)
	if err != nil {
		return reached(err)
	}
	// What would make the relay's word count is written once the relay is there.
	if len(added) > 0 {
		if err := writePins(pinsPath, next); err != nil {
			return err
		}
		fmt.Fprintf(std.err, "Pinned, in %s.\n", pinsPath)
	}
	if err := addRelay(settingsFile, at); err != nil {
		return err
	}
	fmt.Fprintf(std.err, "The relay stands in %s.\n", settingsFile)
	if joined.State == wire.JoinedWaiting {
		fmt.Fprintln(std.err, "Read this fingerprint of your keys to whoever has invited you, by telephone or face to face, so that they know that it was you who came:")
		if _, err := fmt.Fprintln(std.out, wire.Fingerprint(wire.PublicKey(k.sign), wire.PublicKey(k.connect))); err != nil {
			return err
		}
		if c.NoWait {
			fmt.Fprintln(std.err, "Once they have approved it, cfa-responder run and cfa-responder listen are let in.")
			return nil
		}
		fmt.Fprintln(std.err, "Waiting for them to approve it ... (Ctrl-C ends this, and not the invitation)")
		if joined, err = await(ctx, ask); err != nil {
			return err
		}
	}
	fmt.Fprintf(std.err, "You are enrolled for %s, as %s. cfa-responder run is there in the background, cfa-responder listen in this terminal.\nWorkflows that pin who may answer name your signing key:\n", wire.CleanName(joined.Project, 63), wire.CleanName(joined.Name, 64))
	_, err = fmt.Fprintln(std.out, wire.PublicKey(k.sign))
	return err
}

// reached gives an error at the relay its exit code, and its next step.
func reached(err error) error {
	switch {
	case errors.Is(err, dial.ErrRefused):
		return &exit{exitRefused, errors.New("the relay does not know this invitation: it has expired, was withdrawn, or is another relay's; ask for another")}
	case errors.Is(err, answer.ErrJoin):
		return &exit{exitRefused, err}
	case errors.Is(err, dial.ErrUnreachable), errors.Is(err, dial.ErrTLS), errors.Is(err, wire.ErrNonce):
		return &exit{exitUnavailable, err}
	}
	return err
}

// await asks until an administrator has decided.
func await(ctx context.Context, ask func(context.Context) (wire.Joined, error)) (wire.Joined, error) {
	began := time.Now()
	for {
		select {
		case <-time.After(answer.JoinWait(time.Since(began))):
		case <-ctx.Done():
			return wire.Joined{}, errors.New("interrupted; the invitation stays good. Once it is approved, cfa-responder run and cfa-responder listen are let in")
		}
		joined, err := ask(ctx)
		switch {
		case errors.Is(err, dial.ErrUnreachable), ctx.Err() != nil:
			// It may be restarted in this moment.
		case errors.Is(err, dial.ErrRefused):
			return joined, &exit{exitRefused, errors.New("the invitation was withdrawn, or nobody has approved it in time; ask for another")}
		case err != nil:
			return joined, reached(err)
		case joined.State == wire.JoinedEnrolled:
			return joined, nil
		}
	}
}

// haveKeys loads the keys, or makes them.
func haveKeys(ctx context.Context, std stdio, store keyStore, form string) (keys, error) {
	k, err := store.load(ctx)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, missingKeys(store, err)
	}
	if k, err = newKeys(); err != nil {
		return keys{}, err
	}
	where, err := store.create(ctx, k, form)
	if err != nil {
		return keys{}, fmt.Errorf("keep the keys: %w", err)
	}
	fmt.Fprintf(std.err, "Made your keys, in %s.\n", where)
	return k, nil
}

// proposed is f with what an invitation proposes, and which rules of its project
// are new.
func (f pinsFile) proposed(i wire.Invitation) (next pinsFile, added []trust.Rule, err error) {
	offer, err := parsePins([]byte(i.Pins))
	if err != nil {
		return f, nil, usage("the invitation's pins cannot be read: %w", err)
	}
	for project := range offer.Pins {
		if project != i.Project {
			return f, nil, usage("the invitation is for %s and proposes pins for %s, too; ask for another", i.Project, wire.CleanName(project, 63))
		}
	}
	next = pinsFile{Issuers: slices.Clone(f.Issuers), Pins: maps.Clone(f.Pins), Links: f.withLinks(i.Project, offer.Links[i.Project])}
	if next.Pins == nil {
		next.Pins = map[string][]trust.Rule{}
	}
	for _, e := range offer.Issuers {
		at := slices.IndexFunc(next.Issuers, func(own issuerEntry) bool { return own.Name == e.Name })
		switch {
		case at < 0:
			next.Issuers = append(next.Issuers, e)
		case next.Issuers[at].URL != e.URL || next.Issuers[at].Provider != e.Provider:
			return f, nil, usage("the invitation calls %s %q, which is the name of another issuer in your pins; give yours another name with cfa-responder pins issuer, or pin by hand", wire.Clean(e.URL, 200), wire.CleanName(e.Name, 63))
		}
	}
	for _, r := range offer.Pins[i.Project] {
		if slices.ContainsFunc(next.Pins[i.Project], func(own trust.Rule) bool { return sameRule(own, r) }) {
			continue
		}
		next.Pins[i.Project] = append(slices.Clone(next.Pins[i.Project]), r)
		added = append(added, r)
	}
	if len(added) == 0 {
		return f, nil, nil // with nothing to confirm nothing changes, links neither
	}
	if _, err := next.compile(nil); err != nil {
		return f, nil, usage("the invitation's pins would not be good ones: %w", err)
	}
	return next, added, nil
}

// confirm has the human say of each new pin what stands behind the project.
func (c *joinCmd) confirm(ctx context.Context, std stdio, i wire.Invitation, next pinsFile, added []trust.Rule) error {
	given := slices.Clone(c.Confirm)
	for n, r := range added {
		behind, what, err := stands(r, next)
		if err != nil {
			return err
		}
		fmt.Fprintf(std.err, "It proposes that this lets a job ask you for codes in the name of the project %s:\n", i.Project)
		printRule(std.err, r)
		for _, e := range next.Issuers {
			if e.Name == r.Provider {
				fmt.Fprintf(std.err, "  %-22s %s (%s)\n", "whose ID tokens", wire.Clean(e.URL, 200), e.Provider)
			}
		}
		if n == 0 {
			printLinks(std.err, next.Links[i.Project])
		}
		typed := ""
		if len(given) > 0 {
			typed, given = given[0], given[1:]
		} else {
			fmt.Fprintln(std.err, "Compare it with what you know of the project yourself, not with what the link says.")
			if id := r.Claims["repository_id"]; len(id) == 1 && !id[0].Pattern && (r.Provider == "github" || behind != id[0].Text) {
				fmt.Fprintf(std.err, "Which repository an id is of: gh api repositories/%s --jq .full_name\n", shellWord(wire.CleanName(id[0].Text, 40)))
			}
			if typed, err = askLine(ctx, std, "Type "+what+" to pin it: "); err != nil {
				return err
			}
		}
		if typed != behind {
			return usage("that is not %s, so nothing was changed and nothing was sent", what)
		}
	}
	return nil
}

// stands is what a rule says stands behind a project, as a human types it: the
// repository's name, or, where the rule goes by ids alone, the one that decides.
func stands(r trust.Rule, f pinsFile) (value, what string, err error) {
	if name, err := repositoryOf(r, f); err == nil {
		return name, "the repository's name", nil
	}
	p := ci.Find(r.Provider)
	for _, e := range f.Issuers {
		if e.Name == r.Provider {
			p = ci.Find(e.Provider)
		}
	}
	if p != nil {
		for _, claim := range []string{"repository_id", "project-id", "oidc.circleci.com/project-id", "project_id", "pipeline_id", "sub"} {
			if v := r.Claims[claim]; len(v) == 1 && !v[0].Pattern {
				return v[0].Text, "the " + claim, nil
			}
		}
	}
	return "", "", usage("a pin of the invitation does not name one repository, project or account, so it cannot be confirmed here; pin by hand with cfa-responder pins add, and join again")
}

// reach is the relay, ready to be dialled. One that no authority vouches for is
// known by the hash in the invitation, and its certificate is kept beside the
// settings.
func (r *relaySettings) reach(ctx context.Context, env environ, i wire.Invitation, dir string) (*dial.Relay, error) {
	if usual, err := dial.Parse(dial.Target{URL: i.URL}); err != nil || usual.Name() != i.Relay {
		r.Name = i.Relay
	}
	relay, err := dial.Parse(r.target(env))
	if err != nil {
		return nil, usage("the invitation's relay: %w", err)
	}
	if i.Cert == "" || r.CAFile != "" {
		return relay, nil
	}
	cert, err := relay.Certificate(ctx, i.Cert)
	if err != nil {
		return nil, err
	}
	r.CAFile = filepath.Join(dir, "relay-"+i.Relay+".pem")
	if err := replace(r.CAFile, cert); err != nil {
		return nil, fmt.Errorf("keep the relay's certificate: %w", err)
	}
	return dial.Parse(r.target(env))
}

// addRelay writes a relay into the settings, and leaves the rest of them, and what
// a human has written beside it, as it is.
func addRelay(path string, r relaySettings) error {
	data, err := readOwn(path, maxSettings, 0o022)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return usage("settings: %w", err)
	}
	next, changed, err := withRelay(data, r)
	if err != nil {
		return usage("%s: %w; add the relay by hand", path, err)
	}
	if !changed {
		return nil
	}
	if err := replace(path, next); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// withRelay is a settings file's text with one more relay; of one that stands there
// by the same name, or address, this is the newer word.
func withRelay(data []byte, r relaySettings) ([]byte, bool, error) {
	set, err := parseSettings(data)
	if err != nil {
		return nil, false, err
	}
	if slices.Contains(set.Relays, r) {
		return data, false, nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, false, err
	}
	if doc.Kind == 0 {
		doc = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode}}}
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode { // a file of comments, or null
		root = &yaml.Node{Kind: yaml.MappingNode, HeadComment: root.HeadComment}
		doc.Content[0] = root
	}
	var list *yaml.Node
	for n := 0; n+1 < len(root.Content); n += 2 {
		if root.Content[n].Value == "relays" {
			list = root.Content[n+1]
		}
	}
	if list == nil {
		list = &yaml.Node{Kind: yaml.SequenceNode}
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "relays"}, list)
	}
	if list.Kind != yaml.SequenceNode {
		*list = yaml.Node{Kind: yaml.SequenceNode}
	}
	if len(list.Content) == 0 {
		list.Style = 0
	}
	var entry yaml.Node
	if err := entry.Encode(r); err != nil {
		return nil, false, err
	}
	if at := slices.IndexFunc(set.Relays, func(o relaySettings) bool { return o.URL == r.URL && o.Name == r.Name }); at >= 0 {
		list.Content[at] = &entry
	} else {
		list.Content = append(list.Content, &entry)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, false, err
	}
	// What could not be read back would lock its human out.
	if back, err := parseSettings(out.Bytes()); err != nil {
		return nil, false, err
	} else if !slices.Contains(back.Relays, r) {
		return nil, false, errors.New("what would be written does not read back")
	}
	return out.Bytes(), true, nil
}

// replace writes a file whole, so that whoever reads it in between finds the old one
// or the new one. Nobody else can read it.
func replace(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
