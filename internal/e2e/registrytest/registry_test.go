package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, c Config) *Registry {
	t.Helper()
	r := Start(c)
	t.Cleanup(r.Close)
	return r
}

// response is an answer, read.
type response struct {
	status int
	header http.Header
	body   string
}

func (resp response) field(t *testing.T, name string) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(resp.body), &fields); err != nil {
		t.Fatalf("no JSON: %v\n%s", err, resp.body)
	}
	s, _ := fields[name].(string)
	return s
}

func (r *Registry) ask(t *testing.T, method, path, otp string, body []byte) (response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL()+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.Token())
	if otp != "" {
		req.Header.Set("npm-otp", otp)
	}
	resp, err := r.Client().Do(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{status: resp.StatusCode, header: resp.Header, body: string(data)}, nil
}

func (r *Registry) must(t *testing.T, method, path, otp string, body []byte, status int) response {
	t.Helper()
	resp, err := r.ask(t, method, path, otp, body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.status != status {
		t.Fatalf("%s %s is answered %d, not %d: %s", method, path, resp.status, status, resp.body)
	}
	return resp
}

var bytesOfPackage = []byte("a tarball, as far as anybody looks")

func handIn(t *testing.T, name, version string, change func(manifest, attachment map[string]any)) []byte {
	t.Helper()
	manifest := map[string]any{"name": name, "version": version, "dist": map[string]any{"integrity": Integrity(bytesOfPackage), "shasum": Shasum(bytesOfPackage)}}
	attachment := map[string]any{"data": base64.StdEncoding.EncodeToString(bytesOfPackage), "length": len(bytesOfPackage)}
	if change != nil {
		change(manifest, attachment)
	}
	body, err := json.Marshal(map[string]any{
		"_id": name, "name": name, "dist-tags": map[string]string{"latest": version}, "versions": map[string]any{version: manifest},
		"_attachments": map[string]any{name + "-" + version + ".tgz": attachment},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestACodeIsGoodForAsManyUsesAsConfigured(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Code, Codes: []string{"012345"}, Uses: 1, Notice: "read this"})
	missing := r.must(t, "PUT", "/one", "", handIn(t, "one", "1.0.0", nil), 401)
	if missing.header.Get("www-authenticate") != "OTP" || missing.header.Get("npm-notice") != "read this" {
		t.Errorf("the challenge's headers are %v", missing.header)
	}
	wrong := r.must(t, "PUT", "/one", "999999", handIn(t, "one", "1.0.0", nil), 401)
	if wrong.body != missing.body {
		t.Error("a wrong code can be told from a missing one, which the real registry does not allow")
	}
	r.must(t, "PUT", "/one", "012345", handIn(t, "one", "1.0.0", nil), 200)
	r.must(t, "PUT", "/two", "012345", handIn(t, "two", "1.0.0", nil), 401)
	r.AddCode("543210")
	r.must(t, "PUT", "/two", "543210", handIn(t, "two", "1.0.0", nil), 200)
	if v, ok := r.Published("one", "1.0.0"); !ok || v.Integrity != Integrity(bytesOfPackage) || v.Tag != "latest" {
		t.Errorf("published: %v, %+v", ok, v)
	}
}

func TestAWrongCodeTooManyIsARateLimit(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Code, Codes: []string{"012345"}, WrongLimit: 1})
	r.must(t, "PUT", "/one", "999999", handIn(t, "one", "1.0.0", nil), 401)
	r.must(t, "PUT", "/one", "999998", handIn(t, "one", "1.0.0", nil), 429)
	r.ExpireCodes()
	r.must(t, "PUT", "/one", "012345", handIn(t, "one", "1.0.0", nil), 429)
}

func TestALinkGivesATokenOnceItWasVisited(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Link, RetryAfter: 7, Uses: 1, TLS: true})
	if len(r.CA()) == 0 || !strings.HasPrefix(r.URL(), "https://") {
		t.Fatal("no TLS")
	}
	challenge := r.must(t, "PUT", "/@scope%2fone", "", handIn(t, "@scope/one", "1.0.0", nil), 401)
	auth, done := challenge.field(t, "authUrl"), strings.TrimPrefix(challenge.field(t, "doneUrl"), r.URL())
	if open := r.Links(); len(open) != 1 || open[0] != auth {
		t.Errorf("open links: %v, not %s", open, auth)
	}
	if waiting := r.must(t, "GET", done, "", nil, 202); waiting.header.Get("retry-after") != "7" {
		t.Errorf("retry-after is %q", waiting.header.Get("retry-after"))
	}
	if err := r.Visit(auth); err != nil {
		t.Fatal(err)
	}
	token := r.must(t, "GET", done, "", nil, 200).field(t, "token")
	r.must(t, "PUT", "/@scope%2fone", token, handIn(t, "@scope/one", "1.0.0", nil), 200)
	second := r.must(t, "PUT", "/two", token, handIn(t, "two", "1.0.0", nil), 401)
	if _, ok := r.Published("@scope/one", "1.0.0"); !ok || len(r.Puts("@scope/one")) != 2 {
		t.Errorf("published: %v, by %v", ok, r.Puts("@scope/one"))
	}
	r.ExpireLinks()
	r.must(t, "GET", strings.TrimPrefix(second.field(t, "doneUrl"), r.URL()), "", nil, 404)
	if err := r.Visit(second.field(t, "authUrl")); err == nil {
		t.Error("a page can be visited after its link's life")
	}
}

func TestALinkDiesWithItsLife(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Link, LinkLife: time.Nanosecond, LinkBase: "https://evil.example"})
	challenge := r.must(t, "PUT", "/one", "", handIn(t, "one", "1.0.0", nil), 401)
	done, ok := strings.CutPrefix(challenge.field(t, "doneUrl"), "https://evil.example")
	if !ok {
		t.Fatalf("doneUrl is %s", challenge.field(t, "doneUrl"))
	}
	r.must(t, "GET", done, "", nil, 404)
	for _, page := range []string{challenge.field(t, "authUrl"), r.URL() + "/auth/cli/x", "https://other.example/"} {
		if err := r.Visit(page); err == nil {
			t.Errorf("%s can be visited", page)
		}
	}
}

func TestAPublishIsReadBack(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	r.must(t, "GET", "/@scope%2fone", "", nil, 404)
	r.must(t, "PUT", "/@scope%2fone", "", handIn(t, "@scope/one", "1.0.0", nil), 200)
	var doc struct {
		Tags     map[string]string `json:"dist-tags"`
		Versions map[string]struct {
			Dist struct{ Integrity, Shasum, Tarball string }
		}
	}
	if err := json.Unmarshal([]byte(r.must(t, "GET", "/@scope/one", "", nil, 200).body), &doc); err != nil {
		t.Fatal(err)
	}
	dist := doc.Versions["1.0.0"].Dist
	if doc.Tags["latest"] != "1.0.0" || dist.Integrity != Integrity(bytesOfPackage) || dist.Shasum != Shasum(bytesOfPackage) {
		t.Fatalf("the packument is %+v", doc)
	}
	if got := r.must(t, "GET", strings.TrimPrefix(dist.Tarball, r.URL()), "", nil, 200); got.body != string(bytesOfPackage) {
		t.Errorf("the tarball is %q", got.body)
	}
	r.must(t, "GET", "/-/package/@scope%2fone/dist-tags", "", nil, 200)
	r.must(t, "GET", "/-/whoami", "", nil, 200)
	r.must(t, "GET", "/-/anything/else", "", nil, 404)
}

func TestWhatDoesNotFitItsDigestIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(manifest, attachment map[string]any){
		"integrity": func(m, _ map[string]any) { m["dist"].(map[string]any)["integrity"] = Integrity([]byte("other")) },
		"shasum":    func(m, _ map[string]any) { m["dist"].(map[string]any)["shasum"] = Shasum([]byte("other")) },
		"no dist":   func(m, _ map[string]any) { delete(m, "dist") },
		"name":      func(m, _ map[string]any) { m["name"] = "another" },
		"length":    func(_, a map[string]any) { a["length"] = 1 },
		"base64":    func(_, a map[string]any) { a["data"] = "!" },
		"empty":     func(_, a map[string]any) { a["data"], a["length"] = "", 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, Config{})
			r.must(t, "PUT", "/one", "", handIn(t, "one", "1.0.0", change), 400)
			r.must(t, "PUT", "/two", "", handIn(t, "one", "1.0.0", nil), 400)
			r.must(t, "PUT", "/one", "", []byte("{"), 400)
			if _, ok := r.Published("one", "1.0.0"); ok {
				t.Error("it was published all the same")
			}
		})
	}
}

func TestAnAnswerGetsLostAfterThePublish(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Code, Codes: []string{"012345"}, Uses: 1})
	r.Lose(Lost500, LostConn)
	r.must(t, "PUT", "/one", "012345", handIn(t, "one", "1.0.0", nil), 500)
	// Said before the code is looked at: a client that repeats a publish has used its code up.
	again := r.must(t, "PUT", "/one", "012345", handIn(t, "one", "1.0.0", nil), 403)
	if want := "You cannot publish over the previously published versions: 1.0.0."; again.field(t, "error") != want {
		t.Errorf("the second publish is answered %q", again.body)
	}
	r.AddCode("543210")
	if resp, err := r.ask(t, "PUT", "/two", "543210", handIn(t, "two", "1.0.0", nil)); err == nil {
		t.Errorf("the connection was not cut: %+v", resp)
	}
	for _, name := range []string{"one", "two"} {
		if _, ok := r.Published(name, "1.0.0"); !ok {
			t.Errorf("%s was not published", name)
		}
	}
	if puts := r.Puts("two"); len(puts) == 0 || puts[0].Status != 0 {
		t.Errorf("the journal has %v", puts)
	}
}

func TestFailuresComeBeforeTheFactor(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Code, Codes: []string{"012345"}, Uses: 1})
	r.RateLimit(2, 3)
	if resp := r.must(t, "PUT", "/one", "012345", handIn(t, "one", "1.0.0", nil), 429); resp.header.Get("retry-after") != "3" {
		t.Errorf("retry-after is %q", resp.header.Get("retry-after"))
	}
	r.RateLimit(1, -1)
	if resp := r.must(t, "PUT", "/one", "012345", handIn(t, "one", "1.0.0", nil), 429); resp.header.Get("retry-after") != "" {
		t.Error("there is a retry-after")
	}
	r.Forbid(NeedsBypass)
	r.must(t, "PUT", "/one", "012345", handIn(t, "one", "1.0.0", nil), 403)
	r.Forbid("")
	r.must(t, "PUT", "/one", "012345", handIn(t, "one", "1.0.0", nil), 200)
}

func TestWhatIsStagedWaitsForAFactor(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Code, Codes: []string{"012345"}})
	id := r.must(t, "POST", "/-/stage/package/one", "", handIn(t, "one", "1.0.0", nil), 201).field(t, "stageId")
	other := r.must(t, "POST", "/-/stage/package/@scope%2ftwo", "", handIn(t, "@scope/two", "1.0.0", nil), 201).field(t, "stageId")
	third := r.must(t, "POST", "/-/stage/package/three", "", handIn(t, "three", "1.0.0", nil), 201).field(t, "stageId")
	r.must(t, "GET", "/one", "", nil, 404)
	list := r.must(t, "GET", "/-/stage?page=0&perPage=1", "", nil, 200)
	if !strings.Contains(list.body, `"total":3`) || !strings.Contains(list.body, id) || strings.Contains(list.body, other) {
		t.Errorf("the first page is %s", list.body)
	}
	if list := r.must(t, "GET", "/-/stage?page=9223372036854775807&perPage=100&package=@scope/two", "", nil, 200); !strings.Contains(list.body, `"items":[],"total":1`) {
		t.Errorf("a page after the last is %s", list.body)
	}
	if item := r.must(t, "GET", "/-/stage/"+id, "", nil, 200); item.field(t, "shasum") != Shasum(bytesOfPackage) || item.field(t, "packageName") != "one" {
		t.Errorf("the item is %s", item.body)
	}
	if got := r.must(t, "GET", "/-/stage/"+id+"/tarball", "", nil, 200); got.body != string(bytesOfPackage) {
		t.Errorf("the tarball is %q", got.body)
	}
	r.must(t, "POST", "/-/stage/"+id+"/approve", "", nil, 401)
	r.must(t, "DELETE", "/-/stage/"+other, "", nil, 401)
	r.must(t, "POST", "/-/stage/"+id+"/approve", "012345", nil, 200)
	r.must(t, "DELETE", "/-/stage/"+other, "012345", nil, 200)
	r.must(t, "GET", "/one", "", nil, 200)
	if _, ok := r.Published("@scope/two", "1.0.0"); ok {
		t.Error("what was rejected is public")
	}
	if !r.Approve(third) || r.Approve(third) || len(r.Staged()) != 0 {
		t.Errorf("staged in the end: %v", r.Staged())
	}
}

func TestTheJournalComparesCodesAndShowsNone(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Code, Codes: []string{"012345"}})
	r.must(t, "PUT", "/one", "999999", handIn(t, "one", "1.0.0", nil), 401)
	r.must(t, "PUT", "/one", "012345", handIn(t, "one", "1.0.0", nil), 200)
	journal, err := r.Wait(t.Context(), func(j []Request) bool { return len(j) == 2 })
	if err != nil {
		t.Fatal(err)
	}
	if journal[0].OTP != r.Mark("999999") || journal[1].OTP != r.Mark("012345") || journal[0].OTP == journal[1].OTP || r.Mark("") != "" {
		t.Errorf("the marks are wrong: %v", journal)
	}
	if s := fmt.Sprint(journal) + fmt.Sprintf("%+v", journal); strings.Contains(s, "012345") || strings.Contains(s, "999999") {
		t.Errorf("the journal shows a code: %s", s)
	}
	if other := start(t, Config{}); other.Mark("012345") == r.Mark("012345") {
		t.Error("two registries mark a code alike, so marks could be looked up")
	}
}

func TestWithoutTheTokenNothingIsTaken(t *testing.T) {
	t.Parallel()
	r := start(t, Config{})
	for _, path := range []string{"/one", "/-/stage/package/one", gemsPath} {
		method := "POST"
		if path == "/one" {
			method = "PUT"
		}
		req, err := http.NewRequestWithContext(t.Context(), method, r.URL()+path, bytes.NewReader(handIn(t, "one", "1.0.0", nil)))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := r.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 401 || resp.Header.Get("www-authenticate") != "" {
			t.Errorf("%s is answered %s, www-authenticate %q", path, resp.Status, resp.Header.Get("www-authenticate"))
		}
	}
	if slices.ContainsFunc(r.Journal(), func(q Request) bool { return q.Known }) {
		t.Error("the journal takes them for known")
	}
}

// gemFile is as much of a .gem as the registry reads.
func gemFile(t *testing.T, metadata string) []byte {
	t.Helper()
	var zipped, file bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, metadata)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(&file)
	if err := w.WriteHeader(&tar.Header{Name: "metadata.gz", Mode: 0o444, Size: int64(zipped.Len())}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(zipped.Bytes())
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func TestAGemIsPushedWithACode(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Code, Codes: []string{"012345"}})
	file := gemFile(t, "--- !ruby/object:Gem::Specification\nname: rocket\nversion: !ruby/object:Gem::Version\n  version: 1.0.0\n")
	if resp := r.must(t, "POST", gemsPath, "", file, 401); resp.body != GemMissing {
		t.Errorf("without a code: %q", resp.body)
	}
	if resp := r.must(t, "POST", gemsPath, "999999", file, 401); resp.body != GemWrong {
		t.Errorf("with a wrong code: %q", resp.body)
	}
	r.RateLimit(1, 2)
	r.must(t, "POST", gemsPath, "012345", file, 429)
	r.must(t, "POST", gemsPath, "012345", file, 200)
	if v, ok := r.Pushed("rocket", "1.0.0"); !ok || v.Integrity != Integrity(file) {
		t.Errorf("pushed: %v, %+v", ok, v)
	}
	if resp := r.must(t, "POST", gemsPath, "012345", file, 409); resp.body != GemAgain {
		t.Errorf("pushed again: %q", resp.body)
	}
	r.must(t, "POST", gemsPath, "012345", gemFile(t, "name: rocket\n"), 422)
	r.must(t, "POST", gemsPath, "012345", []byte("no gem"), 422)
	r.must(t, "GET", "/api/v1/profile/me.yaml", "", nil, 200)
}

func TestAGemsLinkGivesACode(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Link, Uses: 1})
	file := gemFile(t, "name: rocket\nversion:\n  version: 1.0.0\n")
	r.must(t, "POST", gemsPath, "", file, 401)
	page := r.must(t, "POST", verificationPath, "", nil, 200).body
	status := verificationPath + page[strings.LastIndexByte(page, '/'):] + "/status.json"
	if got := r.must(t, "GET", status, "", nil, 200); got.field(t, "status") != "pending" {
		t.Errorf("before the visit: %s", got.body)
	}
	// gem adds the port on which it would hear of it.
	if err := r.Visit(page + "?port=4711"); err != nil {
		t.Fatal(err)
	}
	got := r.must(t, "GET", status, "", nil, 200)
	if got.field(t, "status") != "success" {
		t.Errorf("after the visit: %s", got.body)
	}
	r.must(t, "POST", gemsPath, got.field(t, "code"), file, 200)
	r.ExpireLinks()
	if got := r.must(t, "GET", status, "", nil, 200); got.field(t, "status") != "expired" {
		t.Errorf("in the end: %s", got.body)
	}
	other := start(t, Config{Factor: Code})
	other.must(t, "POST", verificationPath, "", nil, 422)
}

func TestATrustedCIPublishesByItsIDTokenWithoutAFactor(t *testing.T) {
	t.Parallel()
	r := start(t, Config{Factor: Code, Trusts: "octo/rocket"})
	by := func(method, path, bearer string, body []byte) response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, r.URL()+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		resp, err := r.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response{status: resp.StatusCode, body: string(data)}
	}
	id := func(aud, repository string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"aud":%q,"repository":%q}`, aud, repository)) + ".c2ln"
	}
	const at = "/-/npm/v1/oidc/token/exchange/package/one"
	for name, token := range map[string]string{
		"another repository": id("npm:127.0.0.1", "octo/other"), "another audience": id("npm:registry.npmjs.org", "octo/rocket"), "no token": "x",
	} {
		if got := by("POST", at, token, nil); got.status != 401 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	token := by("POST", at, id("npm:127.0.0.1", "octo/rocket"), nil).field(t, "token")
	if got := by("PUT", "/one", token, handIn(t, "one", "1.0.0", nil)); got.status != 200 {
		t.Errorf("with the token: %d %s", got.status, got.body)
	}
	// The one who has the registry's own token is asked for a factor as ever.
	r.must(t, "PUT", "/two", "", handIn(t, "two", "1.0.0", nil), 401)
}
