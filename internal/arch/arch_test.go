// Package arch holds no code. Its tests hold the project to its own shape: which
// package may import which, and why.
//
// The rule it keeps: a promise that can be seen from the import graph is seen
// from there. "The relay cannot read a code" is one: the relay's package reaches
// no code that opens or seals, by no path. A new package says here what it may
// import, or this test fails.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module     = "github.com/continuousauth/action"
	natsServer = "github.com/nats-io/nats-server/v2/server"
	natsClient = "github.com/nats-io/nats.go"
	certMagic  = "github.com/caddyserver/certmagic"
)

// rule is what one package of ours may reach. Paths of ours stand without the
// module. Tests may import anything.
type rule struct {
	of   string
	why  string
	may  []string // of ours, directly
	not  []string // ours or others', however far down
	past []string // packages through which `not` may be reached all the same
}

var rules = []rule{
	{of: "internal/wire", may: nil, not: []string{natsClient, natsServer, "net/http"},
		why: "what is signed, and how it is decoded, is one place that all three programs share; it stands on no transport and no CI"},
	{of: "internal/ci", may: nil, not: []string{natsClient, natsServer},
		why: "a CI provider is one file and one row, and knows nothing of who asks for its claims"},
	{of: "internal/lifecycle", may: nil, not: []string{natsClient, natsServer, "net", "net/http"},
		why: "the state machine is pure, so that each transition can be tested without a clock, a disk or a network"},
	{of: "internal/seal", may: []string{"internal/wire"}, not: []string{natsClient, natsServer},
		why: "sealing needs the message's types and nothing else; who can reach it can read codes"},
	{of: "internal/receipt", may: []string{"internal/wire"}, not: []string{natsClient, natsServer, "net/http", "internal/seal"},
		why: "a receipt is checked offline, years later, by whoever has the key: what does that must need nothing else"},
	{of: "internal/trust", may: []string{"internal/ci", "internal/wire"}, not: []string{natsClient, natsServer, "internal/seal"},
		why: "one function verifies the chain of proof, for relay and responder alike; neither's transport may leak into it"},
	{of: "internal/dial", may: []string{"internal/wire"}, not: []string{natsServer, "internal/seal"},
		why: "connecting is the same for job and responder, and sees sealed bytes only"},
	{of: "internal/audit", may: []string{"internal/lifecycle", "internal/wire"}, not: []string{natsClient, natsServer, "net", "internal/seal"},
		why: "who checks a relay's record needs nothing of the relay: it reads messages and signatures, and opens nothing"},
	{of: "internal/broker", may: []string{"internal/acme", "internal/audit", "internal/ci", "internal/lifecycle", "internal/metrics", "internal/trust", "internal/wire"},
		not: []string{"internal/seal", "internal/ask", "internal/answer", "internal/page", "internal/devissuer"},
		why: "the relay cannot read a code: nothing that it is built from seals or opens"},
	{of: "internal/ask", may: []string{"internal/ci", "internal/dial", "internal/receipt", "internal/seal", "internal/wire"},
		not: []string{natsServer, "internal/broker", "internal/devissuer"},
		why: "the job's side builds in seconds and stays small, and believes no relay's code"},
	{of: "internal/answer", may: []string{"internal/dial", "internal/receipt", "internal/seal", "internal/trust", "internal/wire"},
		not: []string{natsServer, "internal/broker", "internal/ask", "internal/devissuer"},
		why: "the responder's side decides by what it verified itself, and by nothing that a relay computed"},
	{of: "internal/devissuer", may: []string{"internal/ci"}, not: []string{natsServer, "internal/seal", "internal/broker"},
		why: "the development issuer mints tokens for tests and the demo, and is part of nothing else"},
	{of: "internal/metrics", may: nil, not: []string{natsClient, natsServer, "net"},
		why: "counting and writing it as text is pure: who may read it, and over what, is the relay's to say"},
	{of: "internal/acme", may: []string{"internal/wire"}, not: []string{natsClient, natsServer, "internal/seal"},
		why: "a certificate is got and renewed by somebody else's library, and that is all that it comes near: it sees no client, no token and no record"},
	{of: "internal/child", may: nil, not: []string{natsClient, natsServer, "net"},
		why: "running a command is nothing but that: it gets what it is given, and can send it nowhere"},
	{of: "internal/keyring", may: nil, not: []string{natsClient, natsServer, "net/http"},
		why: "keeping a small secret in the system's keyring is nothing but that: it does not know what the secret is, and can send it nowhere but there"},
	{of: "internal/service", may: nil, not: []string{natsClient, natsServer, "net", "os/exec"},
		why: "a tool is one file and one row: it reads what a finished command wrote, and runs and reaches nothing"},
	{of: "internal/program", may: nil, not: []string{natsClient, natsServer, "net"},
		why: "reading arguments is the same in all three programs, and needs to know none of them"},
	{of: "action", may: []string{"internal/ask", "internal/child", "internal/ci", "internal/dial", "internal/program", "internal/receipt", "internal/service", "internal/wire"},
		not: []string{natsServer, certMagic, "internal/broker", "internal/lifecycle", "internal/devissuer"},
		why: "the Action is built in other people's CI: it must never build nats-server"},
	{of: "internal/page", may: []string{"internal/answer", "internal/wire"}, not: []string{natsServer, certMagic, "internal/broker", "internal/ask", "internal/devissuer"},
		why: "a page shows snapshots and hands decisions on; the responder serves it, and no relay ever does"},
	{of: "responder", may: []string{"internal/answer", "internal/ci", "internal/dial", "internal/keyring", "internal/page", "internal/program", "internal/service", "internal/trust", "internal/wire"},
		not: []string{natsServer, certMagic, "internal/broker", "internal/lifecycle", "internal/devissuer"},
		why: "the human's program holds signing keys: the less it is built from, the better"},
	{of: "deploy/cluster", may: nil, not: []string{natsClient, natsServer, "net/http"},
		why: "it makes a cluster's files and keys, and nothing that reads or sends them"},
	{of: "relay", may: []string{"deploy/cluster", "internal/audit", "internal/broker", "internal/devissuer", "internal/program", "internal/service", "internal/trust", "internal/wire"},
		not: []string{"internal/seal", "internal/ask", "internal/answer", "internal/page"}, past: []string{"internal/legacy"},
		why: "the relay's program cannot read a code either; its demo runs the other two as processes. Only the original service's interface may seal, in a package of its own"},
}

// sealer alone may import sealing. (Forbidding its
// reach would forbid crypto/tls, which uses it for its own ends.)
const (
	sealer  = "internal/seal"
	sealing = "crypto/hpke"
)

// pkg is a package as the go command sees it.
type pkg struct {
	ImportPath string
	GoFiles    []string // none: a package of tests only
	Imports    []string
}

// Promise 3, as far as the import graph can show it.
func TestEachPackageReachesOnlyWhatItMay(t *testing.T) {
	t.Parallel()
	// Files can be for one system only, so the graph is looked at on each.
	for _, system := range []string{"linux", "darwin", "windows"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			for _, problem := range check(rules, load(t, system)) {
				t.Error(problem)
			}
		})
	}
}

func load(t *testing.T, system string) map[string]pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,GoFiles,Imports", "./...")
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	graph := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		graph[p.ImportPath] = p
	}
	return graph
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func full(p string) string {
	if p == "action" || p == "relay" || p == "responder" || strings.HasPrefix(p, "internal/") || strings.HasPrefix(p, "deploy/") {
		return module + "/" + p
	}
	return p
}

func short(p string) string { return strings.TrimPrefix(p, module+"/") }

// helper says whether p helps tests: its name ends in test, as httptest's does.
func helper(p string) bool { return strings.HasSuffix(path.Base(p), "test") }

// check gives one line for each way in which graph breaks rules.
func check(rules []rule, graph map[string]pkg) []string {
	var problems []string
	ruled := map[string]bool{}
	for _, r := range rules {
		of := full(r.of)
		ruled[of] = true
		p, ok := graph[of]
		if !ok || len(p.GoFiles) == 0 {
			// A renamed package would otherwise take its rule along into nothing.
			problems = append(problems, fmt.Sprintf("%s has a rule and is not there; if it moved, move the rule with it", r.of))
			continue
		}
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, module+"/") && !slices.Contains(r.may, short(imported)) {
				problems = append(problems, fmt.Sprintf("%s imports %s and may not: %s", r.of, short(imported), r.why))
			}
		}
		for _, not := range r.not {
			if chain := reach(graph, of, full(not), r.past); chain != nil {
				problems = append(problems, fmt.Sprintf("%s must never reach %s and does, by %s: %s", r.of, not, strings.Join(chain, " → "), r.why))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(graph)) {
		if !strings.HasPrefix(name, module+"/") {
			continue
		}
		p := graph[name]
		if len(p.GoFiles) > 0 && !ruled[name] && !helper(name) {
			problems = append(problems, fmt.Sprintf("%s has no rule: say in internal/arch what it may import, and why", short(name)))
		}
		for _, imported := range p.Imports {
			if imported == sealing && short(name) != sealer && !helper(name) {
				problems = append(problems, fmt.Sprintf("%s imports %s: only %s seals and opens, so that who can is seen from who imports it", short(name), sealing, sealer))
			}
			if strings.HasPrefix(imported, module+"/") && helper(imported) && !helper(name) {
				problems = append(problems, fmt.Sprintf("%s imports %s, which is for tests", short(name), short(imported)))
			}
		}
	}
	return problems
}

// reach gives the shortest chain of imports from one package to another, or nil.
func reach(graph map[string]pkg, from, to string, past []string) []string {
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range graph[queue[0]].Imports {
			if _, seen := before[next]; seen || slices.Contains(past, short(next)) {
				continue
			}
			before[next] = queue[0]
			if next == to {
				var chain []string
				for at := to; at != ""; at = before[at] {
					chain = append(chain, short(at))
				}
				slices.Reverse(chain)
				return chain
			}
			queue = append(queue, next)
		}
	}
	return nil
}

// TestAPlantedViolationIsFound: a checker that finds nothing passes for ever.
func TestAPlantedViolationIsFound(t *testing.T) {
	t.Parallel()
	fakeRules := []rule{
		{of: "internal/broker", may: []string{"internal/wire", "internal/trust"}, not: []string{"internal/seal"}, why: "no codes here"},
		{of: "internal/wire", why: "alone"},
		{of: "internal/trust", may: []string{"internal/wire"}, why: "narrow"},
		{of: "internal/seal", may: []string{"internal/wire"}, why: "narrow"},
		{of: "action", may: []string{"internal/wire"}, not: []string{natsServer}, why: "small"},
		{of: "relay", may: []string{"internal/audit", "internal/broker", "internal/legacy", "internal/trust"}, not: []string{"internal/seal"}, past: []string{"internal/legacy"}, why: "only legacy"},
		{of: "internal/legacy", may: []string{"internal/seal"}, why: "old"},
	}
	honest := func() map[string][]string {
		return map[string][]string{
			"internal/broker": {"fmt", "internal/wire", "internal/trust", natsServer},
			"internal/wire":   {"fmt"},
			"internal/trust":  {"internal/wire"},
			"internal/seal":   {"internal/wire", "crypto/hpke"},
			"action":          {"internal/wire", natsClient},
			"relay":           {"internal/broker", "internal/legacy"},
			"internal/legacy": {"internal/seal"},
			natsServer:        {"fmt"},
			natsClient:        {"fmt"},
			"crypto/hpke":     {"fmt"},
			"fmt":             nil,
		}
	}
	for _, tc := range []struct {
		name   string
		change func(map[string][]string)
		want   []string // each problem, as part of its line; none: no problem
	}{
		{"nothing", func(map[string][]string) {}, nil},
		{"imports what it may not", func(g map[string][]string) { g["internal/wire"] = []string{"internal/trust"} }, []string{"internal/wire imports internal/trust and may not: alone"}},
		{"the relay seals", func(g map[string][]string) { g["internal/broker"] = append(g["internal/broker"], "internal/seal") },
			[]string{
				"internal/broker imports internal/seal and may not: no codes here",
				"internal/broker must never reach internal/seal and does, by internal/broker → internal/seal",
				"relay must never reach internal/seal and does, by relay → internal/broker → internal/seal",
			}},
		{"the relay seals by way of another", func(g map[string][]string) { g["internal/trust"] = append(g["internal/trust"], "internal/seal") },
			[]string{
				"internal/broker must never reach internal/seal and does, by internal/broker → internal/trust → internal/seal",
				"internal/trust imports internal/seal and may not",
				"relay must never reach internal/seal and does, by relay → internal/broker → internal/trust → internal/seal",
			}},
		{"the relay seals without our package", func(g map[string][]string) { g["internal/broker"] = append(g["internal/broker"], "crypto/hpke") }, []string{"internal/broker imports crypto/hpke: only internal/seal seals"}},
		{"the Action builds the server through a library", func(g map[string][]string) { g[natsClient] = []string{natsServer} },
			[]string{"action must never reach " + natsServer + " and does, by action → " + natsClient + " → " + natsServer}},
		{"the exception is no way round", func(g map[string][]string) { g["relay"] = append(g["relay"], "internal/trust", "internal/seal") },
			[]string{"relay imports internal/seal and may not", "relay must never reach internal/seal and does, by relay → internal/seal"}},
		{"a package vanished", func(g map[string][]string) { delete(g, "internal/seal"); g["internal/legacy"] = nil }, []string{"internal/seal has a rule and is not there"}},
		{"a package without a rule", func(g map[string][]string) { g["internal/new"] = nil }, []string{"internal/new has no rule"}},
		{"a test's helper needs none", func(g map[string][]string) { g["internal/wire/wiretest"] = []string{"internal/seal"} }, nil},
		{"a test's helper in a program", func(g map[string][]string) {
			g["internal/wire/wiretest"] = nil
			g["action"] = append(g["action"], "internal/wire/wiretest")
		}, []string{"action imports internal/wire/wiretest and may not", "action imports internal/wire/wiretest, which is for tests"}},
		{"a circle ends", func(g map[string][]string) { g["fmt"] = []string{natsClient} }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			imports := honest()
			tc.change(imports)
			graph := map[string]pkg{}
			for name, list := range imports {
				p := pkg{ImportPath: full(name), GoFiles: []string{"a.go"}}
				for _, i := range list {
					p.Imports = append(p.Imports, full(i))
				}
				graph[p.ImportPath] = p
			}
			problems := check(fakeRules, graph)
			if len(problems) != len(tc.want) {
				t.Errorf("found %d problems, want %d:\n%s", len(problems), len(tc.want), strings.Join(problems, "\n"))
			}
			for _, want := range tc.want {
				if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
					t.Errorf("not found: %s\nfound:\n%s", want, strings.Join(problems, "\n"))
				}
			}
		})
	}
}

// TestEachRuleHasAReasonAndNamesWhatIsThere: a misspelt path in a rule forbids
// nothing.
func TestEachRuleHasAReasonAndNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	graph := load(t, "linux")
	notYet := []string{"internal/legacy"} // comes with the original service's interface
	seen := map[string]bool{}
	for _, r := range rules {
		if r.why == "" || seen[r.of] {
			t.Errorf("%s has no reason, or two rules", r.of)
		}
		seen[r.of] = true
		for _, name := range slices.Concat(r.may, r.not, r.past) {
			if _, ok := graph[full(name)]; !ok && !slices.Contains(notYet, name) {
				t.Errorf("%s: there is no package %s", r.of, name)
			} else if ok && slices.Contains(notYet, name) {
				t.Errorf("%s is there now: take it off notYet", name)
			}
		}
		for _, name := range r.may {
			if slices.Contains(r.not, name) {
				t.Errorf("%s may and may not import %s", r.of, name)
			}
		}
	}
}

// TestEachPermissionIsUsed: one that nobody needs lets in what nobody has thought
// about.
func TestEachPermissionIsUsed(t *testing.T) {
	t.Parallel()
	imports := map[string][]string{}
	for _, system := range []string{"linux", "darwin", "windows"} {
		for name, p := range load(t, system) {
			imports[name] = append(imports[name], p.Imports...)
		}
	}
	for _, r := range rules {
		for _, name := range r.may {
			if !slices.Contains(imports[full(r.of)], full(name)) {
				t.Errorf("%s may import %s, and does not", r.of, name)
			}
		}
	}
}

// TestNoPackageIsNamedForNothing: such names collect what belongs nowhere.
func TestNoPackageIsNamedForNothing(t *testing.T) {
	t.Parallel()
	for name := range load(t, "linux") {
		if strings.HasPrefix(name, module+"/") && slices.Contains([]string{"util", "utils", "common", "types", "models", "config", "helpers", "misc"}, path.Base(name)) {
			t.Errorf("%s: name it for what it does", short(name))
		}
	}
}

// TestEachFuzzTargetHasSeeds: without one, a fuzz target runs nothing under
// `go test` and shows green.
func TestEachFuzzTargetHasSeeds(t *testing.T) {
	t.Parallel()
	dir := root(t)
	targets := 0
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != dir || d.Name() == "testdata" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range parsed.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") || len(fn.Type.Params.List) != 1 || len(fn.Type.Params.List[0].Names) != 1 {
				continue
			}
			targets++
			kept, err := os.ReadDir(filepath.Join(filepath.Dir(file), "testdata", "fuzz", fn.Name.Name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if len(kept) == 0 && !seeds(fn.Body, fn.Type.Params.List[0].Names[0].Name) {
				t.Errorf("%s in %s: f.Add nothing, and testdata/fuzz holds nothing", fn.Name.Name, file)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if targets == 0 {
		t.Error("no fuzz target found")
	}
}

// seeds says whether body calls f.Add, or hands f to a function that can.
func seeds(body ast.Node, f string) bool {
	found := false
	ast.Inspect(body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Add" {
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == f {
				found = true
			}
		}
		for _, arg := range call.Args {
			if id, ok := arg.(*ast.Ident); ok && id.Name == f {
				found = true
			}
		}
		return true
	})
	return found
}

func TestAFuzzTargetWithoutSeedsIsFound(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		`f.Fuzz(func(t *testing.T, b []byte) { g.Add(b); f.Log("x") })`: false,
		`f.Add([]byte("x")); f.Fuzz(nil)`:                               true,
		`for _, s := range all { f.Add(s) }`:                            true,
		`corpus(f, "x")`:                                                true,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "", "package p\nfunc FuzzX(f *testing.F) {\n"+body+"\n}", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := seeds(file.Decls[0].(*ast.FuncDecl).Body, "f"); got != want {
			t.Errorf("%s: %v", body, got)
		}
	}
}
