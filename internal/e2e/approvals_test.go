package e2e

// Approvals: with the real programs, and with a relay that lies about them.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/receipt"
	"github.com/continuousauth/action/internal/wire"
)

// npmTarball writes a package's tarball of name and content by turns.
func npmTarball(t testing.TB, path string, files ...string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: "package/" + files[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []interface{ Close() error }{w, z} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func sha256Of(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// approve starts cfa approve as a step of the job that the issuer knows.
func (w *world) approve(env []string, args ...string) *process {
	w.t.Helper()
	all := append([]string{"approve", "--project", project}, w.flags...)
	return start(w.t, append(w.issuer.GitHubEnv("release"), env...), "cfa", append(all, args...)...)
}

// types says yes to prompt n at a responder without a terminal, by the match code
// that stands in the job's log.
func types(t testing.TB, responder, job *process, n int) {
	t.Helper()
	responder.waitFor(fmt.Sprintf(`#%d your turn: type %d, then the match code from the job's log, which is your yes`, n, n))
	match := job.waitFor(`match code: +(\S+)`)[1]
	if _, err := fmt.Fprintf(responder.in, "%d\n%s\n", n, match); err != nil {
		t.Fatal(err)
	}
	responder.waitFor(fmt.Sprintf(`#%d approved: `, n))
}

func TestAnApprovalWithItsFilesIsCheckedOffline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dist := filepath.Join(w.dir, "dist")
	if err := os.Mkdir(dist, 0o700); err != nil {
		t.Fatal(err)
	}
	tgz, sums, kept := filepath.Join(dist, "acme-rocket-1.2.3.tgz"), filepath.Join(dist, "SHA256SUMS"), filepath.Join(w.dir, "receipt.jsonl")
	npmTarball(t, tgz, "package.json", `{"name":"@acme/rocket","version":"1.2.3","scripts":{"postinstall":"node x.js"}}`, "x.js", "")
	if err := os.WriteFile(sums, []byte(sha256Of(t, tgz)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	registry := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(registry.Close)
	ana := w.humans[0]
	desk := w.listen(ana)
	job := w.approve([]string{"NPM_CONFIG_REGISTRY=" + registry.URL}, "--message", "publish 1.2.3", "--artifact", filepath.Join(dist, "*"), "--responders", ana.sign, "--receipt", kept, "--details")
	job.waitFor(`acme-rocket-1\.2\.3\.tgz \(@acme/rocket 1\.2\.3\), \d+ bytes, sha256 ` + sha256Of(t, tgz))
	desk.waitFor(`#1 verified: example/rocket asks for your yes, for generic, in the project rocket`)
	desk.waitFor(`#1 package: @acme/rocket 1\.2\.3`)
	desk.waitFor(`#1 sha256: ` + sha256Of(t, tgz))
	desk.waitFor(`#1 sha256: ` + sha256Of(t, sums))
	desk.waitFor(`#1 your turn: `)
	fmt.Fprintln(desk.in, "i1")
	desk.waitFor(`#1 details \| @acme/rocket is not published yet, so all its 2 files`)
	types(t, desk, job, 1)
	if code := job.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	desk.waitFor(`#1 over: the relay says that it is approved`)

	// Another process, without relay, CI or network.
	verify := func(args ...string) *process {
		return run(t, nil, "cfa", append([]string{"verify-receipt"}, args...)...)
	}
	good := verify("--key", ana.sign, "--artifact", tgz, "--artifact", sums, kept)
	if good.code != 0 {
		t.Fatalf("the receipt is refused with %d", good.code)
	}
	for _, want := range []string{"approved by " + ana.sign, "repository_id: " + w.claim("repository_id"), "run_id: " + w.claim("run_id"), sha256Of(t, tgz) + " (the file that is here)", `"publish 1.2.3"`, "rocket at the relay localhost"} {
		if !strings.Contains(good.out.String(), want) {
			t.Errorf("%q is not told:\n%s", want, good.out)
		}
	}
	// Another's key, another file, another receipt: each is refused, with the reason.
	bob := w.person("Bob")
	evil := filepath.Join(w.dir, filepath.Base(tgz))
	npmTarball(t, evil, "package.json", `{"name":"@acme/rocket","version":"1.2.3"}`)
	line, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	tampered := map[string][]byte{"cut": line[:len(line)/2]}
	var envelope struct {
		PayloadType string              `json:"payloadType"`
		Payload     []byte              `json:"payload"`
		Signatures  []map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(line, &envelope); err != nil {
		t.Fatal(err)
	}
	payload := envelope.Payload
	for name, swap := range map[string][2]string{
		"another file":    {sha256Of(t, tgz), sha256Of(t, evil)},
		"another message": {"publish 1.2.3", "publish 1.2.4"},
		"another run":     {w.claim("run_id"), strings.Repeat("1", len(w.claim("run_id")))},
		"another person":  {ana.sign, bob.sign},
	} {
		changed := bytes.ReplaceAll(payload, []byte(swap[0]), []byte(swap[1]))
		if bytes.Equal(changed, payload) {
			t.Fatalf("%s: nothing changed", name)
		}
		tampered[name] = bytes.Replace(line, []byte(base64.StdEncoding.EncodeToString(payload)), []byte(base64.StdEncoding.EncodeToString(changed)), 1)
	}
	tampered["another signer"] = bytes.ReplaceAll(line, []byte(ana.sign), []byte(bob.sign))
	for name, data := range tampered {
		path := filepath.Join(w.dir, "tampered")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if p := verify("--key", ana.sign, "--key", bob.sign, path); p.code != 77 || p.out.String() != "" {
			t.Errorf("%s: exit code %d\n%s", name, p.code, p.out)
		}
	}
	if p := verify("--key", bob.sign, kept); p.code != 77 || !strings.Contains(p.err.String(), "not among the keys given") {
		t.Errorf("another key: exit code %d", p.code)
	}
	if p := verify("--key", ana.sign, "--artifact", evil, kept); p.code != 77 || !strings.Contains(p.err.String(), "another file than the one that was approved") {
		t.Errorf("another file: exit code %d", p.code)
	}
}

func TestTwoPeopleApproveOneAfterTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.person("Ben") })
	ana, ben := w.humans[0], w.humans[1]
	kept := filepath.Join(w.dir, "receipt.jsonl")
	first, second := w.listen(ana), w.listen(ben)
	summary := filepath.Join(w.dir, "summary.md")
	job := w.approve([]string{"GITHUB_STEP_SUMMARY=" + summary}, "--message", "publish 1.2.3", "--approvals", "2", "--responders", ana.sign+","+ben.sign, "--receipt", kept)
	types(t, first, job, 1)
	job.waitFor(`approved by ` + ana.sign + ` \(1 of 2\)`)
	first.waitFor(`#1 note: your yes is on record`)
	second.waitFor(`#1 again: one person has agreed, and another must too; this is`)
	match := job.waitFor(`match code: +(\S+)`)[1]
	fmt.Fprintf(first.in, "1\n%s\n", match) // once more: it counts for nothing
	first.waitFor(`you have agreed to it, and another person must too`)
	fmt.Fprintf(second.in, "1\n%s\n", match)
	if code := job.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	// Each with their key, the time and their name.
	want := regexp.MustCompile("\\| answered \\| `" + ana.sign + "` at [0-9:]{8} UTC, Ana, one more answer is needed, `" + ben.sign + "` at [0-9:]{8} UTC, Ben \\|\n")
	if text := read(t, summary); !want.MatchString(text) {
		t.Errorf("the summary does not say who approved:\n%s", text)
	}
	if p := run(t, nil, "cfa", "verify-receipt", "--key", ana.sign+" "+ben.sign, kept); p.code != 0 {
		t.Errorf("the receipt is refused with %d", p.code)
	}
	if p := run(t, nil, "cfa", "verify-receipt", "--key", ana.sign, kept); p.code != 77 {
		t.Errorf("one key for two people: %d", p.code)
	}
}

func TestADeclinedApprovalLeavesNoReceipt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ana := w.humans[0]
	kept := filepath.Join(w.dir, "receipt.jsonl")
	desk := w.listen(ana)
	job := w.approve(nil, "--message", "publish 1.2.3", "--responders", ana.sign, "--receipt", kept)
	desk.waitFor(`#1 your turn: `)
	fmt.Fprintln(desk.in, "d1 not on a Friday")
	if code := job.wait(); code != 80 || !strings.Contains(job.err.String(), "not on a Friday") {
		t.Errorf("exit code %d", code)
	}
	if left, err := filepath.Glob(filepath.Join(w.dir, "*receipt*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestAHostileRelayCannotForgeAnApproval(t *testing.T) {
	t.Parallel()
	files := []wire.Artifact{{Name: "rocket-1.2.3.tgz", SHA256: wire.Digest{8}, Size: 4321, Package: "rocket", Version: "1.2.3"}}
	approval := func(p *play, c *ask.Config) {
		c.Ask, c.Format, c.Artifacts, c.Responders = wire.AskApproval, "any", files, []string{p.ana.signer(), p.bob.signer()}
	}
	// approved plays an honest approval from the human's yes to its end.
	approved := func(t *testing.T, p *play, j *ciJob) {
		t.Helper()
		p.ana.answers(t, j.id(), 1)
		a := j.takes(t)
		list, err := receipt.Read(a.Receipt())
		if err != nil {
			t.Fatal(err)
		}
		if err := receipt.Check(list, []string{p.ana.signer()}, []receipt.File{{Name: files[0].Name, SHA256: files[0].SHA256, Size: files[0].Size}}); err != nil {
			t.Error(err)
		}
		j.finishes(t)
	}
	// tells has the relay change what it tells the job of a request that is over.
	tells := func(p *play, change func(s *wire.State)) {
		id := p.job.id()
		p.lies(lies{state: func(to, of string, s *wire.State) {
			if to == id && of == id && s.Answer != nil {
				change(s)
			}
		}})
	}
	inVain := func(t *testing.T, p *play, j *ciJob, why string) {
		t.Helper()
		p.ana.answers(t, j.id(), 1)
		j.fails(t, ask.ErrCancelled)
		j.tells(t, why)
	}
	plays(t, []script{
		{"swaps the files in the request", approval, func(t *testing.T, p *play) {
			p.lies(lies{item: func(_ string, it *wire.Item) bool {
				it.Request = forged(t, it.Request, func(b map[string]any) {
					b["artifacts"].([]any)[0].(map[string]any)["sha256"] = strings.Repeat("6", 64)
				})
				return true
			}})
			if p.lying {
				p.asksInVain(func() { p.ana.notice(t, "not what a job signed: request: signature does not verify") })
				return
			}
			p.job.asks()
			approved(t, p, p.job)
		}, ""},
		{"passes one request's yes off as another's", approval, func(t *testing.T, p *play) {
			other := p.another(homeRepo, func(c *ask.Config) { approval(p, c) })
			other.asks()
			p.ana.answers(t, other.id(), 1)
			other.takes(t)
			other.finishes(t)
			p.job.asks()
			if !p.lying {
				approved(t, p, p.job)
				return
			}
			id := p.job.id()
			p.relay.do(func() {
				rec := p.relay.requests[other.id()].rec
				env, err := wire.DecodeEnvelope(rec.Yes[0].Envelope)
				if err != nil {
					t.Error(err)
				}
				p.relay.lies.state = func(to, of string, s *wire.State) {
					if to == id && of == id {
						s.State, s.Answer, s.Rev = "done", &env, s.Rev+1
					}
				}
				p.relay.send(id, wire.Hint{Hint: wire.HintState, Key: id})
			})
			p.job.fails(t, ask.ErrCancelled)
			p.job.tells(t, "an answer to another request")
		}, ""},
		{"changes the receipt in the yes", approval, func(t *testing.T, p *play) {
			tells(p, func(s *wire.State) {
				env := forged(t, *s.Answer, func(b map[string]any) { b["receipt"] = raw(bytes.Repeat([]byte{6}, 64)) })
				s.Answer = &env
			})
			p.job.asks()
			if p.lying {
				inVain(t, p, p.job, "an answer whose signature is not by the key it names")
				return
			}
			approved(t, p, p.job)
		}, "passes a yes on"},
		{"changes the time in the yes", approval, func(t *testing.T, p *play) {
			tells(p, func(s *wire.State) {
				env := forged(t, *s.Answer, func(b map[string]any) { b["at"] = time.Now().Unix() - 86400 })
				s.Answer = &env
			})
			p.job.asks()
			if p.lying {
				inVain(t, p, p.job, "an answer whose signature is not by the key it names")
				return
			}
			approved(t, p, p.job)
		}, "passes a yes on"},
		{"says yes with a key of its own", approval, func(t *testing.T, p *play) {
			own := newSigner(t)
			tells(p, func(s *wire.State) {
				q := p.relay.requests[p.job.id()]
				a := &wire.Answer{Key: wire.PublicKey(own), Digest: q.digest, Attempt: 1, Ask: wire.AskApproval, Decision: wire.DecisionYes, At: time.Now().Unix()}
				statement, err := receipt.Statement(q.request, q.digest, 1, a.At, a.Key)
				if err != nil {
					t.Error(err)
				}
				if a.Receipt, err = receipt.Sign(statement, own); err != nil {
					t.Error(err)
				}
				env := signed(t, a, own)
				s.Answer = &env
			})
			p.job.asks()
			if p.lying {
				inVain(t, p, p.job, "an answer of a key that this job does not accept")
				return
			}
			approved(t, p, p.job)
		}, "passes a yes on"},
		{"calls it approved, and shows no yes", approval, func(t *testing.T, p *play) {
			tells(p, func(s *wire.State) { s.Answer = nil })
			p.job.asks()
			if p.lying {
				p.ana.answers(t, p.job.id(), 1)
				p.job.fails(t, ask.ErrCancelled)
				return
			}
			approved(t, p, p.job)
		}, "passes a yes on"},
		{"has one person agree twice", func(p *play, c *ask.Config) { approval(p, c); c.Approvals = 2 }, func(t *testing.T, p *play) {
			p.job.asks()
			p.ana.answers(t, p.job.id(), 1)
			first := p.job.takes(t)
			if err := p.job.session.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			id := p.job.id()
			p.job.asks()
			if p.lying {
				var env wire.Envelope
				p.relay.do(func() {
					var err error
					if env, err = wire.DecodeEnvelope(p.relay.requests[id].rec.Yes[0].Envelope); err != nil {
						t.Error(err)
					}
					p.relay.lies.state = func(to, of string, s *wire.State) {
						if to == id && of == id {
							s.State, s.Answer, s.Rev = "done", &env, s.Rev+1
						}
					}
					p.relay.send(id, wire.Hint{Hint: wire.HintState, Key: id})
				})
				p.job.fails(t, ask.ErrCancelled)
				p.job.tells(t, "a second approval of a key that has given one")
				return
			}
			p.listens(p.bob)
			p.bob.answers(t, id, 2)
			second := p.job.takes(t)
			list, err := receipt.Read(bytes.Join([][]byte{first.Receipt(), second.Receipt()}, []byte("\n")))
			if err != nil {
				t.Fatal(err)
			}
			if err := receipt.Check(list, []string{p.ana.signer(), p.bob.signer()}, nil); err != nil {
				t.Error(err)
			}
			p.job.finishes(t)
			p.ana.saw(t, id, "the first is not asked again", func(s answer.Prompt) bool {
				return s.Attempt == 2 && !s.Answerable && strings.Contains(s.Why, "you have agreed")
			})
		}, ""},
	})
}
