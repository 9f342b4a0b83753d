package broker

// The relay's file: what is refused, on which line and why; that whatever is
// taken reads the same the second time; and that a reload takes all or nothing.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

// exampleKeys puts keys that were made just now where an example has ${U1}, ….
func exampleKeys(t testing.TB, text string) string {
	t.Helper()
	h := []*human{newHuman(t, "1"), newHuman(t, "2")}
	for i, h := range h {
		text = strings.ReplaceAll(text, fmt.Sprintf("${U%d}", i+1), h.key())
		text = strings.ReplaceAll(text, fmt.Sprintf("${A%d}", i+1), h.signer())
	}
	return text
}

// base is a good file; tests change a line of it.
const base = `host: relay.example.com
listen:
  nats: 127.0.0.1:4222
data: /var/lib/cfa
issuers: [github]
projects:
  rocket:
    ci:
      - provider: github
        repository_id: "1"
        repository_owner_id: "2"
    responders:
      - name: Ana
        connect: ${U1}
        sign: ${A1}
`

func TestAMistakeInTheFileIsNamedWithItsLine(t *testing.T) {
	t.Parallel()
	if _, err := ParseConfig([]byte(exampleKeys(t, base)), "/"); err != nil {
		t.Fatalf("the control: %v", err)
	}
	const external = "nats: {url: 'tls://nats.example.com:4222', callout: {nkey: a}, client: {nkey: b}, store: {nkey: c}, system: {nkey: d}, issuer: e, xkey: f}\n"
	const operator = "nats: {url: 'tls://nats.example.com:4222', callout: {creds: a}, client: {creds: b}, store: {creds: c}, system: {creds: d}, issuer: e, user-issuer: g, xkey: f, account: ${A2}}\n"
	for _, c := range []struct {
		name     string
		old, new string // what is replaced; old "" appends
		parts    []string
	}{
		{"an unknown key", "data:", "dta:", []string{"line 4: field dta not found; did you mean data?"}},
		{"an unknown key below", "  nats: 127", "  port: 1\n  nats: 127", []string{"line 3: field port not found (there are nats, websocket, origins, plain-websocket, metrics, public-metrics)"}},
		{"an unknown key of a project", "    ci:", "    cj: 1\n    ci:", []string{"line 8: field cj not found; did you mean ci?"}},
		{"letters that changed places", "host:", "hots:", []string{"line 1: field hots not found; did you mean host?"}},
		{"an unknown key of a responder", "        sign:", "        key: x\n        sign:", []string{"line 15: field key not found (there are name, connect, sign, former, after)"}},
		{"a key twice", "", "host: other.example.com\n", []string{"line 16: mapping key \"host\" already defined at line 1"}},
		{"a project twice", "", "  rocket: {}\n", []string{"line 16: mapping key \"rocket\" already defined at line 7"}},
		{"a list for a word", "host: relay.example.com", "host: [a]", []string{"line 1: cannot unmarshal !!seq into string"}},
		{"a word for a list", "issuers: [github]", "issuers: github", []string{"line 5: cannot unmarshal !!str `github`"}},
		{"a word for a mapping", "projects:\n  rocket:", "projects:\n  boat: x\n  rocket:", []string{"line 7: cannot unmarshal !!str `x`"}},
		{"a word for a number", "    ci:", "    attempts: many\n    ci:", []string{"line 8: cannot unmarshal !!str `many` into int"}},
		{"a link's host with a scheme", "    ci:", "    links: ['https://registry.example.com']\n    ci:", []string{"line 8: projects.rocket.links[0]:", "not the host of a link"}},
		{"any link", "    ci:", "    links:\n      - registry.example.com\n      - '*.example.com'\n    ci:", []string{"line 10: projects.rocket.links[1]:", "not the host of a link"}},
		{"a link's host twice", "    ci:", "    links: [a.example, a.example]\n    ci:", []string{"line 8: projects.rocket.links[1]:", "stands twice"}},
		{"no YAML", "data:", "\tdata:", []string{"line 3: found a tab character"}},
		{"two documents", "", "---\nhost: x\n", []string{"a second YAML document"}},
		{"two documents, the second broken", "", "---\n{{{\n", []string{"a second YAML document"}},

		{"no host", "host: relay.example.com\n", "", []string{"host: is missing", "stands in each ID token's audience"}},
		{"a host with a port", "host: relay.example.com", "host: relay.example.com:4222", []string{"line 1: host:", "no port"}},
		{"a host in capitals", "host: relay", "host: Relay", []string{"line 1: host:", "not a relay name"}},
		{"no data", "data: /var/lib/cfa\n", "", []string{"data: is missing"}},
		{"names", "", "names: secret\n", []string{`line 16: names: is "secret"; use shown (the default) or hidden`}},

		{"nothing to listen on", "  nats: 127.0.0.1:4222", "  plain-websocket: false", []string{"line 2: listen.nats: is missing"}},
		{"no port", "127.0.0.1:4222", "127.0.0.1", []string{`line 3: listen.nats: "127.0.0.1" is not host:port`}},
		{"a port that is none", "127.0.0.1:4222", "127.0.0.1:http", []string{`line 3: listen.nats: "127.0.0.1:http" is not host:port`}},
		{"a port that is too high", "127.0.0.1:4222", "127.0.0.1:70000", []string{`line 3: listen.nats`}},
		{"public without TLS", "127.0.0.1:4222", "0.0.0.0:4222", []string{`line 3: listen.nats: "0.0.0.0:4222" can be reached from outside, but there is no TLS: ID tokens would travel in plain text; set tls.acme, or tls.cert and tls.key, or listen on 127.0.0.1`}},
		{"everywhere without TLS", "127.0.0.1:4222", "':4222'", []string{"line 3", "there is no TLS"}},
		{"by name without TLS", "127.0.0.1:4222", "relay.example.com:4222", []string{"there is no TLS"}},
		{"IPv6 without TLS", "127.0.0.1:4222", "'[::]:4222'", []string{"there is no TLS"}},
		{"public WebSocket without TLS", "  nats: 127.0.0.1:4222", "  nats: 127.0.0.1:4222\n  websocket: 0.0.0.0:443", []string{"line 4: listen.websocket:", "there is no TLS"}},
		{"a plain public WebSocket", "  nats: 127.0.0.1:4222", "  nats: 0.0.0.0:4222\n  websocket: 0.0.0.0:80\n  plain-websocket: true\ntls: {cert: a, key: b}", []string{"line 4: listen.websocket: plain-websocket is for a proxy on the same machine: listen on 127.0.0.1"}},
		{"plain is for WebSocket only", "  nats: 127.0.0.1:4222", "  nats: 0.0.0.0:4222\n  plain-websocket: true", []string{"line 3: listen.nats:", "there is no TLS"}},
		{"a certificate without a key", "", "tls: {cert: a.pem}\n", []string{"line 16: tls: needs both cert and key"}},
		{"files and ACME", "", "tls: {cert: a, key: b, acme: {agree-to-terms: true}}\n", []string{"line 16: tls: has files and acme; keep one of them"}},
		{"ACME without terms", "", "tls: {acme: {email: ops@example.com}}\n", []string{"line 16: tls.acme.agree-to-terms: must be true", "https://letsencrypt.org/repository/"}},
		{"ACME without another's terms", "", "tls: {acme: {directory: 'https://ca.example.com/dir'}}\n", []string{"line 16: tls.acme.agree-to-terms: must be true", "the authority's (ca.example.com)"}},
		{"ACME that is empty", "", "tls:\n  acme:\n", []string{"line 17: tls.acme: is empty; write {agree-to-terms: true}"}},
		{"an unknown key of ACME", "", "tls: {acme: {agree: true}}\n", []string{"line 16: field agree not found (there are agree-to-terms, email, directory, ca-file, eab)"}},
		{"an unknown key of an account", "", "tls: {acme: {agree-to-terms: true, eab: {account: x}}}\n", []string{"line 16: field account not found (there are key-id, key)"}},
		{"half an account", "", "tls: {acme: {agree-to-terms: true, eab: {key-id: x}}}\n", []string{"line 16: tls.acme.eab: needs both key-id and key (a file)"}},
		{"a directory over plain http", "", "tls: {acme: {agree-to-terms: true, directory: 'http://ca.example.com/dir'}}\n", []string{"line 16: tls.acme.directory:", "write https://"}},
		{"a directory with a password", "", "tls: {acme: {agree-to-terms: true, directory: 'https://a:b@ca.example.com/dir'}}\n", []string{"line 16: tls.acme.directory:"}},
		{"an email that is none", "", "tls: {acme: {agree-to-terms: true, email: 'Ops <ops@example.com>'}}\n", []string{"line 16: tls.acme.email:", "is not an address like ops@example.com"}},
		{"a name that nobody certifies", "host: relay.example.com", "host: relay.internal\ntls: {acme: {agree-to-terms: true}}", []string{"line 1: host:", "is no name of the public DNS"}},
		{"an address for a name", "host: relay.example.com", "host: 192.0.2.1\ntls: {acme: {agree-to-terms: true}}", []string{"line 1: host:", "is an address, and certificates are for names"}},
		{"an origin without WebSocket", "  nats: 127.0.0.1:4222", "  nats: 127.0.0.1:4222\n  origins: ['https://a.example']", []string{"line 4: listen.origins: are for listen.websocket, which is missing"}},
		{"an origin without a scheme", "  nats: 127.0.0.1:4222", "  nats: 127.0.0.1:4222\n  websocket: 127.0.0.1:80\n  origins:\n    - https://a.example\n    - b.example", []string{`line 7: listen.origins[1]: "b.example" is not an origin as browsers send it; write https://host or https://host:port`}},
		{"an origin with a path", "  nats: 127.0.0.1:4222", "  nats: 127.0.0.1:4222\n  websocket: 127.0.0.1:80\n  origins: ['https://a.example/']", []string{"is not an origin"}},
		{"any origin", "  nats: 127.0.0.1:4222", "  nats: 127.0.0.1:4222\n  websocket: 127.0.0.1:80\n  origins: ['*']", []string{"is not an origin"}},

		{"too long a wait", "", "limits: {wait: 7h}\n", []string{"line 16: limits.wait: is longer than 6h0m0s, the protocol's limit"}},
		{"a wait that is none", "", "limits: {wait: soon}\n", []string{`line 16: "soon" is not a time span; write 30m or 720h`}},
		{"a negative wait", "", "limits: {wait: -5m}\n", []string{"is not a time span"}},
		{"too short a record", "", "limits:\n  retention: 719h\n", []string{"line 17: limits.retention: is shorter than 720h0m0s; the record is what refuses a request the second time"}},
		{"too small a record", "", "limits: {store: 1000}\n", []string{"line 16: limits.store: is less than 16 MiB"}},

		{"no issuers", "issuers: [github]\n", "", []string{"issuers: is missing"}},
		{"an unknown CI", "issuers: [github]", "issuers:\n  - github\n  - drone", []string{`line 7: issuers[1]: "drone" is no CI that this relay knows (forgejo, github, circleci, gitlab, buildkite,`}},
		{"a CI without one issuer for all", "issuers: [github]", "issuers:\n  - github\n  - jenkins", []string{"line 7: issuers[1]: Jenkins has no issuer that is the same for all; write {name: ..., provider: jenkins, url: ...}"}},
		{"a CI whose tokens name no relay", "issuers: [github]", "issuers:\n  - github\n  - {name: ado, provider: azure-pipelines, url: 'https://vstoken.dev.azure.com/x'}", []string{"line 7: issuers[1]: ID tokens of Azure Pipelines are always for the audience api://AzureADTokenExchange", "provider generic"}},
		{"a bound CI called any", "issuers: [github]", "issuers:\n  - github\n  - {name: any, provider: generic, url: 'https://token.actions.githubusercontent.com/octo'}", []string{"line 7: issuers[1]:", "this is an issuer of GitHub Actions", "write github for the provider"}},
		{"ids of a CI that has them", "issuers: [github]", "issuers:\n  - {name: ghes, provider: github, url: 'https://ghes.example.com', ids: [x]}", []string{"line 6: issuers[0]: ids: GitHub Actions knows which claims"}},
		{"ids that are none", "issuers: [github]", "issuers:\n  - {name: any, provider: generic, url: 'https://vault.example.com', ids: [aud]}", []string{"line 6: issuers[0]: ids: the claim aud is no id"}},
		{"an issuer over plain http", "issuers: [github]", "issuers:\n  - {name: ghes, provider: github, url: 'http://ghes.example.com/_services/token'}", []string{"line 6: issuers[0]:", "it is plain http"}},
		{"an issuer with a user name", "issuers: [github]", "issuers: [{name: ghes, provider: github, url: 'https://token.actions.githubusercontent.com@evil.example'}]", []string{"line 5: issuers[0]:", "what follows the @ is the real host"}},
		{"an issuer with a slash", "issuers: [github]", "issuers: [{name: ghes, provider: github, url: 'https://ghes.example.com/'}]", []string{"does not end with a slash"}},
		{"an issuer that is none", "issuers: [github]", "issuers: [{name: ghes, provider: github, url: 'ghes'}]", []string{"line 5: issuers[0]:"}},
		{"an issuer's name", "issuers: [github]", "issuers: [{name: 'G H', provider: github, url: 'https://ghes.example.com'}]", []string{"line 5: issuers[0]:", "is not a name"}},
		{"an issuer's algorithm", "issuers: [github]", "issuers: [{name: ghes, provider: github, url: 'https://ghes.example.com', algs: [HS256]}]", []string{"line 5: issuers[0]:", `algorithm "HS256" is not accepted; use RS256 or ES256`}},
		{"an issuer twice", "issuers: [github]", "issuers:\n  - github\n  - {name: again, provider: github}", []string{"line 7: issuers[1]:", "stands there twice"}},
		{"two issuers of one name", "issuers: [github]", "issuers:\n  - github\n  - {provider: github, url: 'https://ghes.example.com'}", []string{`are both named "github"`, "give each a name of its own"}},
		{"an unknown key of an issuer", "issuers: [github]", "issuers:\n  - {name: x, provider: github, jwks: y}", []string{`line 6: an issuer has name, provider, url, algs and ids, not "jwks"`}},
		{"too many issuers", "issuers: [github]", "issuers: [" + strings.Repeat("github, ", 101) + "github]", []string{"line 5: issuers: has 102 entries; at most 100 are allowed"}},

		{"no projects", base[strings.Index(base, "projects:"):], "", []string{"projects: is missing; without a project nobody can ask"}},
		{"a project's name", "  rocket:", "  Rocket:", []string{"line 7: projects.Rocket: ", "not a project name"}},
		{"no rules", base[strings.Index(base, "    ci:"):strings.Index(base, "    responders:")], "", []string{"line 7: projects.rocket.ci: is empty; without a rule no job can ask"}},
		{"no responders", base[strings.Index(base, "    responders:"):], "", []string{"line 7: projects.rocket.responders: is empty; without a responder nobody can answer"}},
		{"a rule without ids", "        repository_id: \"1\"\n", "", []string{"line 9: the rule does not name repository_id"}},
		{"a rule for an unknown issuer", "provider: github", "provider: drone", []string{"line 9:", "is not the name of an issuer that is configured here"}},
		{"a claim that there is not", "        repository_id:", "        repo_id: x\n        repository_id:", []string{"line 10:", "has no claim"}},
		{"a rule's claim twice", "        repository_id:", "        repository_id: \"3\"\n        repository_id:", []string{"line 11:", "stands twice in this rule"}},
		{"nobody at once", "        connect: ${U1}\n", "        connect: ${U1}\n        after: 5m\n", []string{"projects.rocket.responders: are all asked `after` a time"}},
		{"never asked", "        connect: ${U1}\n", "        connect: ${U1}\n        after: 6h\n", []string{"projects.rocket.responders[0].after: is 6h0m0s, and no request waits longer than 6h0m0s"}},
		{"approvals", "    ci:", "    approvals: 3\n    ci:", []string{"line 8: projects.rocket.approvals: is 3; use 1 or 2"}},
		{"approvals of one person", "    ci:", "    approvals: 2\n    ci:", []string{"line 8: projects.rocket.approvals: is 2, and the project has 1 responder"}},
		{"open", "    ci:", "    open: 65\n    ci:", []string{"line 8: projects.rocket.open: is 65; use 1 to 64"}},
		{"open per run", "    ci:", "    open-per-run: -1\n    ci:", []string{"line 8: projects.rocket.open-per-run: is -1; use 1 to 16"}},
		{"per hour", "    ci:", "    per-hour: 10001\n    ci:", []string{"line 8: projects.rocket.per-hour: is 10001; use 1 to 10000"}},
		{"attempts", "    ci:", "    attempts: 101\n    ci:", []string{"line 8: projects.rocket.attempts: is 101; use 1 to 100"}},

		{"a responder without a name", "      - name: Ana\n        connect", "      - connect", []string{"projects.rocket.responders[0].name: is missing"}},
		{"a name that deceives", "name: Ana", "name: \"A\\u202Ena\"", []string{"line 13: projects.rocket.responders[0].name:", "could deceive a reader"}},
		{"a name that is too long", "name: Ana", "name: " + strings.Repeat("a", 65), []string{"longer than 64 characters"}},
		{"a connecting key that is none", "connect: ${U1}", "connect: U123", []string{"line 14: projects.rocket.responders[0].connect:", "not a connecting key", "cfa-responder keygen prints it"}},
		{"the keys changed round", "connect: ${U1}\n        sign: ${A1}", "connect: ${A1}\n        sign: ${U1}", []string{"line 14: projects.rocket.responders[0].connect:", "not a connecting key"}},
		{"a signing key that is none", "sign: ${A1}", "sign: ${U2}", []string{"line 15: projects.rocket.responders[0].sign:", "not a signing key"}},
		{"somebody twice", "", "      - {name: Ana, connect: ${U1}, sign: ${A1}}\n", []string{"line 16: projects.rocket.responders[1]: Ana stands twice in this project"}},
		{"a connecting key of two people", "", "      - {name: Bob, connect: ${U1}, sign: ${A2}}\n", []string{"line 16: projects.rocket.responders[1]: the connecting key stands elsewhere with another name or signing key"}},
		{"a signing key of two machines", "", "      - {name: Bob, connect: ${U2}, sign: ${A1}}\n", []string{"line 16: projects.rocket.responders[1]: the signing key stands elsewhere with another connecting key"}},
		{"another name elsewhere", "", "  boat:\n    ci: [{provider: github, repository_id: '3', repository_owner_id: '2'}]\n    responders: [{name: Anna, connect: ${U1}, sign: ${A1}}]\n",
			[]string{"the connecting key stands elsewhere with another name or signing key"}},

		{"an external server and an own one", "", external, []string{"line 2: listen: nats and websocket are the external server's to listen on"}},
		{"an external server without a URL", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "url: 'tls://nats.example.com:4222', ", "", 1), []string{"line 2: nats.url: is missing"}},
		{"an external server in plain text", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "tls://", "nats://", 1), []string{`line 2: nats.url: "nats://nats.example.com:4222": use tls:// (nats:// is plain text, for loopback only)`}},
		{"one of several in plain text", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "tls://nats.example.com:4222", "tls://a.example:4222,nats://b.example:4222", 1), []string{`"nats://b.example:4222": use tls://`}},
		{"an external server without a port", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, ".com:4222", ".com", 1), []string{"is not scheme://host:port"}},
		{"no credentials", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "store: {nkey: c}, ", "", 1), []string{"line 2: nats.store: needs one of nkey (a seed file) and creds (a credentials file)"}},
		{"two credentials", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "{nkey: d}", "{creds: d, nkey: e}", 1), []string{"nats.system: needs one of nkey"}},
		{"nobody who signs", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, ", issuer: e", "", 1), []string{"nats.issuer: is missing"}},
		{"the system account", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "issuer: e", "issuer: e, account: SYS", 1), []string{"line 2: nats.account: is the system account; jobs and responders must have one of their own"}},
		{"the system account in other letters", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "issuer: e", "issuer: e, account: $sys", 1), []string{"nats.account: is the system account"}},
		{"a user by JWT in config mode", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "{nkey: d}", "{creds: d}", 1), []string{"line 2: nats.system: is a creds file, which is for servers in operator mode: write the key (A…) of the account of nats.client as nats.account; or give an nkey"}},
		{"a signer of users in config mode", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "issuer: e", "issuer: e, user-issuer: g", 1), []string{"line 2: nats.user-issuer: is for servers in operator mode: write the account's key (A…) as nats.account; or remove it, nats.issuer signs both"}},
		{"a callout in the clear", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, ", xkey: f", "", 1), []string{"line 2: nats.xkey: is missing; it is the file with the curve seed (SX…, nk -gen curve) that the server encrypts the callout to, without which ID tokens pass other servers in the clear"}},
		{"one of several servers beyond loopback, in the clear", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(strings.Replace(external, ", xkey: f", "", 1), "tls://nats.example.com:4222", "nats://127.0.0.1:4222,tls://b.example:4222", 1), []string{"nats.xkey: is missing"}},
		{"operator mode, a user by nkey", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(operator, "{creds: b}", "{nkey: b}", 1), []string{"line 2: nats.client: is an nkey, but nats.account is an account's key: servers in operator mode take users by their JWT only; give its creds file"}},
		{"operator mode, nobody who signs", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(operator, " issuer: e,", "", 1), []string{"line 2: nats.issuer: is missing; it is the file with the seed of a signing key of the account of nats.callout"}},
		{"operator mode, nobody who signs users", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(operator, " user-issuer: g,", "", 1), []string{"line 2: nats.user-issuer: is missing; it is the file with the seed of a signing key of nats.account"}},
		{"operator mode, in the clear", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(strings.Replace(operator, " xkey: f,", "", 1), "tls://nats.example.com", "nats://127.0.0.1", 1), []string{"line 2: nats.xkey: is missing"}},
		{"operator mode, an account by name", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(operator, "${A2}", "CFA", 1), []string{"line 2: nats.callout: is a creds file, which is for servers in operator mode"}},
		{"replicas", "listen:\n  nats: 127.0.0.1:4222\n", strings.Replace(external, "issuer: e", "issuer: e, replicas: 2", 1), []string{"nats.replicas: is 2; use 1, 3 or 5"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := base + c.new
			if c.old != "" {
				if strings.Count(base, c.old) != 1 {
					t.Fatalf("%q stands %d times in the file", c.old, strings.Count(base, c.old))
				}
				text = strings.Replace(base, c.old, c.new, 1)
			}
			_, err := ParseConfig([]byte(exampleKeys(t, text)), "/")
			if err == nil {
				t.Fatal("taken")
			}
			for _, p := range c.parts {
				if !strings.Contains(err.Error(), p) {
					t.Errorf("%v\ndoes not say: %s", err, p)
				}
			}
		})
	}
	for _, empty := range []string{"", "\n", "# nothing yet\n"} {
		if _, err := ParseConfig([]byte(empty), "/"); err == nil || err.Error() != "the file is empty" {
			t.Errorf("%q: %v", empty, err)
		}
	}
	if _, err := ParseConfig(make([]byte, MaxConfig+1), "/"); err == nil || !strings.Contains(err.Error(), "at most 4194304 are allowed") {
		t.Error(err)
	}
}

// examples are whole files as people write them.
var examples = map[string]string{
	"the least": base,
	"everything": `
host: relay.example.com
listen:
  nats: 0.0.0.0:4222
  websocket: 0.0.0.0:443
  origins: ["https://desk.example.com", "https://desk.example.com:8443"]
tls: {cert: cert.pem, key: key.pem}
data: data
names: hidden
limits: {wait: 2h, retention: 2160h, store: 2147483648}
issuers:
  - github
  - circleci
  - {name: ghes, provider: github, url: "https://ghes.example.com/_services/token", algs: [RS256, ES256]}
projects:
  rocket:
    attempts: 3
    ci:
      - provider: github
        repository_id: "1"
        repository_owner_id: "2"
        workflow_ref: example/rocket/.github/workflows/release.yml@refs/heads/main
        ref: {pattern: 'refs/tags/v[0-9]+'}
        event_name: [push, workflow_dispatch]
        allow: [self-hosted]
      - provider: ghes
        repository_id: "1"
        repository_owner_id: "2"
    responders:
      - {name: Ana, connect: ${U1}, sign: ${A1}}
      - {name: Bob, connect: ${U2}, sign: ${A2}}
  boat:
    ci: [{provider: circleci, org-id: c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e, project-id: 3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c}]
    responders: [{name: Ana, connect: ${U1}, sign: ${A1}}]
`,
	"behind a proxy": `
host: relay.example.com
listen: {nats: "0.0.0.0:4222", websocket: "127.0.0.1:8080", plain-websocket: true}
tls: {cert: /etc/cfa/cert.pem, key: /etc/cfa/key.pem}
data: /var/lib/cfa
issuers: [github]
projects:
  rocket:
    ci: [{provider: github, repository_id: "1", repository_owner_id: "2"}]
    responders: [{name: Ana, connect: ${U1}, sign: ${A1}}]
`,
	"an external cluster": `
host: relay.example.com
data: /var/lib/cfa
nats:
  url: tls://a.example.com:4222,tls://b.example.com:4222
  ca-file: ca.pem
  callout: {nkey: callout.nk}
  client: {nkey: client.nk}
  store: {nkey: store.nk}
  system: {nkey: /etc/nats/system.nk}
  issuer: issuer.nk
  xkey: xkey.nk
  account: JOBS
  replicas: 5
issuers: [github]
projects:
  rocket:
    ci: [{provider: github, repository_id: "1", repository_owner_id: "2"}]
    responders: [{name: Ana, connect: ${U1}, sign: ${A1}}]
`,
	"a cluster in operator mode": `
host: relay.example.com
data: /var/lib/cfa
nats:
  url: tls://a.example.com:4222
  callout: {creds: callout.creds}
  client: {creds: client.creds}
  store: {creds: store.creds}
  system: {creds: /etc/nats/system.creds}
  issuer: issuer.nk
  user-issuer: user-issuer.nk
  xkey: xkey.nk
  account: ${A2}
issuers: [github]
projects:
  rocket:
    ci: [{provider: github, repository_id: "1", repository_owner_id: "2"}]
    responders: [{name: Ana, connect: ${U1}, sign: ${A1}}]
`,
}

func TestEachExampleOfAFileIsTaken(t *testing.T) {
	t.Parallel()
	for name, text := range examples {
		c, err := ParseConfig([]byte(exampleKeys(t, text)), "/etc/cfa")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		switch name {
		case "the least":
			if c.Limits.Wait != Duration(6*time.Hour) || c.Limits.Retention != Duration(720*time.Hour) || c.Limits.Store != 1<<30 || c.asking("rocket") != c.Limits || c.Limits.Open != 5 || c.Limits.OpenPerRun != 1 || c.Limits.PerHour != 120 || c.Limits.Attempts != 5 {
				t.Errorf("defaults: %+v", c)
			}
		case "everything":
			if c.TLS.Cert != "/etc/cfa/cert.pem" || c.Data != "/etc/cfa/data" || c.asking("rocket").Attempts != 3 || c.asking("rocket").Open != 5 || len(c.issuers) != 3 || len(c.desks) != 2 || c.Names != "hidden" {
				t.Errorf("%+v", c)
			}
			for _, d := range c.desks {
				if want := map[string]int{"Ana": 2, "Bob": 1}[d.name]; len(d.projects) != want {
					t.Errorf("%s is on call for %v", d.name, d.projects)
				}
			}
			// CircleCI's issuer of an organization follows from a rule's id.
			if n := len(c.allIssuers()); n != 4 {
				t.Errorf("%d issuers", n)
			}
		case "an external cluster":
			if n := c.NATS; n.Account != "JOBS" || n.Replicas != 5 || n.Callout.NKey != "/etc/cfa/callout.nk" || n.CAFile != "/etc/cfa/ca.pem" || n.System.NKey != "/etc/nats/system.nk" || n.operator() {
				t.Errorf("%+v", n)
			}
		case "a cluster in operator mode":
			if n := c.NATS; !n.operator() || n.Replicas != 3 || n.Callout.Creds != "/etc/cfa/callout.creds" || n.UserIssuer != "/etc/cfa/user-issuer.nk" || n.System.Creds != "/etc/nats/system.creds" {
				t.Errorf("%+v", n)
			}
		}
	}
}

func TestAFileIsReadWithItsOwnFolderInMind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "cfa.yaml")
	if _, err := ReadConfig(path); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte(exampleKeys(t, strings.Replace(base, "/var/lib/cfa", "data", 1))), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ReadConfig(path)
	if err != nil || c.Data != filepath.Join(dir, "data") {
		t.Errorf("%v %+v", err, c)
	}
	if err := os.WriteFile(path, []byte("host: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(path); err == nil || !strings.HasPrefix(err.Error(), path+": line ") {
		t.Errorf("%v", err)
	}
	if err := os.Truncate(path, MaxConfig+1); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(path); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error(err)
	}
}

// FuzzConfig holds ParseConfig to two things: it never panics, and what it takes
// it takes again, from its own words, with the same meaning.
func FuzzConfig(f *testing.F) {
	for _, text := range examples {
		f.Add([]byte(exampleKeys(f, text)))
	}
	f.Add([]byte("host: a\n---\nhost: b\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("issuers: [{name: x, provider: github, url: 'http://[::1]:80'}]\nhost: a\ndata: b\nlisten: {nats: 'localhost:1'}\n"))
	f.Add([]byte("projects: {? [a, b] : {}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		began := time.Now()
		c, err := ParseConfig(data, "/dir")
		if took := time.Since(began); took > 3*time.Second {
			t.Fatalf("%d bytes take %s", len(data), took)
		}
		if err != nil {
			if c != nil || err.Error() == "" || strings.ContainsAny(err.Error(), "\x00\x1b") {
				t.Fatalf("%q", err)
			}
			return
		}
		again, err := ParseConfig(data, "/dir")
		if err != nil {
			t.Fatalf("taken, and then not: %v", err)
		}
		if !reflect.DeepEqual(c.desks, again.desks) || !reflect.DeepEqual(c.Projects, again.Projects) {
			t.Fatal("it reads in two ways")
		}
		for key, d := range c.desks {
			if wire.CheckConnectKey(key) != nil || wire.CheckSigningKey(d.sign) != nil || len(d.projects) == 0 {
				t.Fatalf("%+v", d)
			}
		}
		text, err := yaml.Marshal(c.Projects)
		if err != nil {
			t.Fatal(err)
		}
		var projects map[string]Project
		if err := yaml.Unmarshal(text, &projects); err != nil {
			t.Fatalf("its own words are not read: %v\n%s", err, text)
		}
		twice, err := yaml.Marshal(projects)
		if err != nil || string(twice) != string(text) {
			t.Fatalf("not stable: %v\n%s\n%s", err, text, twice)
		}
	})
}

func TestAReloadTakesAllOrNothing(t *testing.T) {
	t.Parallel()
	f, c := startReloadable(t)
	good := c.text
	ana := f.sit(f.ana)
	j := f.accepted(rocketRepo, "rocket")
	newRepo := "example/kite"
	j2 := f.job(newRepo, "kite")
	j2.connect()
	refused(t, j2.send(j2.nc), wire.RefusedPolicy)
	kite := fmt.Sprintf("  kite:\n    ci: [%s]\n    responders: [%s]\n", ruleOf(newRepo), f.ana.yaml())
	withKite := strings.Replace(good, "projects:\n", "projects:\n"+kite, 1)

	for name, bad := range map[string]struct{ text, why string }{
		"broken":              {strings.Replace(withKite, "issuers:", "issuers: ]", 1), "line"},
		"with a mistake":      {withKite + "names: secret\n", "names: is \"secret\""},
		"another address":     {strings.Replace(withKite, "127.0.0.1:0", "127.0.0.1:1", 1), "listen differs, which takes a restart of `cfa-relay serve`; until then the old file counts"},
		"another name":        {strings.Replace(withKite, relayName, "other.test", 1), "host differs, which takes a restart"},
		"another directory":   {strings.Replace(withKite, "data: ", "data: /x", 1), "data differs, which takes a restart"},
		"another authority":   {withKite + "tls: {acme: {agree-to-terms: true, directory: 'https://ca.test/dir'}}\n", "tls differs, which takes a restart"},
		"another certificate": {withKite + "tls: {cert: a, key: b}\n", "tls differs, which takes a restart"},
		"another retention":   {withKite + "limits: {retention: 1000h}\n", "limits differs, which takes a restart"},
	} {
		before := f.relay.rules.Load()
		c.set(bad.text)
		err := f.relay.Reload()
		if err == nil || !strings.Contains(err.Error(), "reload: nothing was changed") || !strings.Contains(err.Error(), bad.why) {
			t.Errorf("%s: %v", name, err)
		}
		if f.relay.rules.Load() != before {
			t.Errorf("%s: something was changed", name)
		}
		refused(t, j2.send(j2.nc), wire.RefusedPolicy)
	}
	must(t, j.state())
	ana.pending()

	c.set(withKite)
	if err := f.relay.Reload(); err != nil {
		t.Fatal(err)
	}
	if s := must(t, j2.send(j2.nc)); s.State != "pending" {
		t.Errorf("%+v", s)
	}
	ana = f.sit(f.ana) // whose projects are others now
	if p := ana.pending(); len(p.Items) != 2 {
		t.Errorf("%+v", p)
	}
	// A project that is taken away takes its rules with it.
	c.set(strings.Replace(good, "  boat:", "  ship:", 1))
	if err := f.relay.Reload(); err != nil {
		t.Fatal(err)
	}
	boat := f.job(boatRepo, "boat")
	boat.connect()
	refused(t, boat.send(boat.nc), wire.RefusedPolicy)
	must(t, j2.state()) // what was accepted goes on
}

// Of a file with a mistake, too: whoever asks how a relay is must find it.
func TestWhereTheDataIsStandsInAFileWithMistakesToo(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, text, want string }{
		{"good", "host: a\ndata: here\n", "here"},
		{"absolute", "data: /srv/cfa\n", "/srv/cfa"},
		{"unknown key", "data: here\nhots: a\n", "here"},
		{"twice", "data: here\nhost: a\nhost: b\n", "here"},
		{"no YAML", "issuers: ]\ndata: 'here'\n", "here"},
		{"another's data", "x: {data: there}\nissuers: ]\n  data: there\ndata: here # this\n", "here"},
		{"not there", "host: a\n", ""},
		{"no text", "data: [a]\n", ""},
		{"empty", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "cfa.yaml")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			want := within(dir, tc.want)
			got, err := DataDir(path)
			if got != want || (err == nil) != (want != "") {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		})
	}
}

// An issuer that is down while the file is read again must not end its jobs.
func TestAReloadKeepsTheKeysThatItHas(t *testing.T) {
	t.Parallel()
	f := newFrailFixture(t)
	c := &file{text: f.configText(t.TempDir(), onLoopback)}
	f.start(c.text, Options{Reread: c.read})
	f.issuer.Break(devissuer.Down)
	if err := f.relay.Reload(); err != nil {
		t.Fatal(err)
	}
	f.log.line(t, "WARN", "some issuers' keys are missing")
	f.accepted(rocketRepo, "rocket")
}
