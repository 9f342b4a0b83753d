//go:build clients

package broker

// The commands that docs/operator-mode.md tells an operator, run as they stand by
// the operator's own tool, and what comes of them: two relays and a job.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"

	"github.com/continuousauth/action/internal/lifecycle"
)

func TestTheOperatorsCommandsMakeWhatRelaysNeed(t *testing.T) {
	if _, err := exec.LookPath("nsc"); err != nil {
		t.Skip("nsc is not installed; it is what the page's commands are for: https://github.com/nats-io/nsc")
	}
	page, err := os.ReadFile("../../docs/operator-mode.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) != 1 {
		t.Fatalf("%d blocks of commands on the page", len(blocks))
	}
	x := &external{Name: "nats-1", Port: -1, Timeout: 30, dir: t.TempDir(), Operator: &operatorSide{accounts: map[string]*account{}}}
	x.Store = filepath.Join(x.dir, "store")
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", string(blocks[0][1]))
	cmd.Dir = x.dir
	// Else it would write into the operator that whoever runs this has.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(x.dir, "home"), "NSC_NO_GITIGNORE=true"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(x.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	x.Operator.Sentinel = read("sentinel.jwt")
	x.Operator.accounts["CFA"] = &account{claims: jwt.NewAccountClaims(read("account"))}
	x.run(t)

	// The section of the page's example, with these folders.
	section := func(relay string) string {
		text, err := os.ReadFile("../../examples/cfa.yaml")
		if err != nil {
			t.Fatal(err)
		}
		_, s, _ := strings.Cut(string(text), "\n##nats:")
		s = "nats:" + strings.ReplaceAll(s, "\n##", "\n")
		s = regexp.MustCompile(`[a-z-]+\.(creds|nk)\b`).ReplaceAllString(s, filepath.Join(x.dir, relay)+"/$0")
		s = regexp.MustCompile(`(?m)^  url: .*`).ReplaceAllString(s, "  url: "+x.server.ClientURL())
		return regexp.MustCompile(`(?m)^  account: .*`).ReplaceAllString(s, "  account: "+read("account"))
	}
	f := newFixture(t)
	f.server, f.names = x.server, map[string]string{read("account"): "CFA"}
	f.start(f.configText(t.TempDir(), section("relay-1")), Options{})
	f.second(f.configText(t.TempDir(), section("relay-2")), Options{})
	ana := f.sit(f.ana)
	j := f.accepted(rocketRepo, "rocket")
	m, r := ana.answer(j, 1)
	must(t, r)
	hint(t, j.hints, answerOf(m))
	must(t, j.got(1, m.Sealed.Hash()))
	must(t, j.done(1))
	var events []lifecycle.Event
	for _, rec := range records(t, f.relay, j.pub) {
		events = append(events, rec.Event)
	}
	if fmt.Sprint(events) != "[asked answered got done]" {
		t.Errorf("the record: %v", events)
	}
}
