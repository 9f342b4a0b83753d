package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

// packs runs cfa exec around an npm that packs these packages, and publishes with what comes of a link:
// good for so many of them. It gives what was published, and what humans were told.
func packs(t *testing.T, packages []string, uses int, flags ...string) (got ran, published, asked []string) {
	if runtime.GOOS == "windows" {
		t.Skip("the npm of this test is a shell's script")
	}
	url, _ := linkRegistry(t)
	bin := t.TempDir()
	npm := `#!/bin/sh
case $1 in
config) echo false; exit ;;
run) exit ;;
pack) while [ "$1" != --pack-destination ]; do shift; done; cp "$BIN"/*.tgz "$2"; exit ;;
esac
used=$(cat "$BIN/used" 2>/dev/null)
if [ "$NPM_CONFIG_OTP" ] && [ "${#used}" -lt "$USES" ]; then
	printf x >>"$BIN/used"
	echo "${2##*/}" >>"$BIN/published"
	[ -z "$MEDDLE" ] || echo more >>"${2%/*}/$MEDDLE"
	exit 0
fi
rm -f "$BIN/used"
echo 'npm error code EOTP' >&2
echo 'npm error Open this URL in your browser to authenticate:' >&2
if [ "$NPM_CONFIG_JSON" = true ]; then echo '{"error":{"code":"EOTP","authUrl":"'$REGISTRY'/auth/cli/1","doneUrl":"'$REGISTRY'/done/1"}}'; fi
exit 1
`
	files := map[string][]byte{"npm": []byte(npm), "published": nil}
	for _, name := range packages {
		files[name+".tgz"] = pack(t, "package.json", manifest(name, "1.0.0", nil))
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(bin, name), data, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r := startRelay(t, t.TempDir())
	e := &environment{lines: append(r.job(t), "CFA_PROJECT=follows")}
	var out, log bytes.Buffer
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	code := run(t.Context(), append([]string{"exec", "--", "npm", "publish"}, flags...), stdio{out: &out, err: &log, getenv: e.get, environ: func() []string {
		return append(os.Environ(), "REGISTRY="+url, "BIN="+bin, fmt.Sprint("USES=", uses))
	}})
	data, err := os.ReadFile(filepath.Join(bin, "published"))
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range r.asked {
		asked = append(asked, q.Message)
	}
	slices.SortFunc(asked, func(a, b string) int { return len(b) - len(a) })
	return ran{code: code, out: out.String(), err: log.String()}, strings.Fields(string(data)), asked
}

// withoutDigests is what a human is told without the digests, which must be some.
func withoutDigests(t *testing.T, s string) string {
	t.Helper()
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, " (sha256 ")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if len(after) < 65 || strings.Trim(after[:64], "0123456789abcdef") != "" || after[64] != ')' {
			t.Fatalf("no digest: %q", after)
		}
		s = after[65:]
	}
}

// What a human gives for one package is good for the next, so all are named that it
// may be used for; and who is asked for the last is not told of the first.
func TestAHumanIsToldOfEachPackageThatTheirFactorPublishes(t *testing.T) {
	for _, c := range []struct {
		uses int
		want []string
	}{
		{3, []string{"publish ws-a 1.0.0, ws-b 1.0.0, ws-c 1.0.0"}},
		{2, []string{"publish ws-a 1.0.0, ws-b 1.0.0, ws-c 1.0.0", "publish ws-c 1.0.0"}},
	} {
		t.Run(fmt.Sprint(c.uses), func(t *testing.T) {
			got, published, asked := packs(t, []string{"ws-a", "ws-b", "ws-c"}, c.uses, "--workspaces")
			if got.code != 0 || len(published) != 3 {
				t.Fatalf("exit code %d, published %q\n%s", got.code, published, got.err)
			}
			for i := range asked {
				asked[i] = withoutDigests(t, asked[i])
			}
			if !slices.Equal(asked, c.want) {
				t.Errorf("asked %q, want %q", asked, c.want)
			}
		})
	}
}

func TestWhatIsToldOfManyPackagesFitsAMessage(t *testing.T) {
	t.Parallel()
	for n := 1; n < 40; n++ {
		all := make([]tarball, n)
		for i := range all {
			all[i] = tarball{name: fmt.Sprint("@a-scope/package-", i), version: "1.0.0", sha256: strings.Repeat("0", 64)}
		}
		told := announced(all)
		named := strings.Count(told, "@a-scope/")
		if len(told) > wire.MaxText || named < min(n, 8) || named < n && !strings.HasSuffix(told, fmt.Sprintf(", and %d more", n-named)) {
			t.Errorf("%d packages: %d bytes, %q", n, len(told), told)
		}
	}
}

// A tarball that is written to after it was read is not the one that a human agreed to.
func TestATarballThatChangedIsNotPublished(t *testing.T) {
	t.Setenv("MEDDLE", "ws-b.tgz")
	got, published, _ := packs(t, []string{"ws-a", "ws-b"}, 2, "--workspaces")
	if got.code == 0 || !slices.Equal(published, []string{"ws-a.tgz"}) || !strings.Contains(got.err, "ws-b.tgz has changed since it was packed") {
		t.Errorf("exit code %d, published %q\n%s", got.code, published, got.err)
	}
}

// A script that runs while a package is packed knows where to: what it puts there is
// another package, which a human's factor must not publish.
func TestATarballThatAScriptPutBesideThePackageIsNotPublished(t *testing.T) {
	got, published, asked := packs(t, []string{"rocket", "worm"}, 2)
	if got.code != exitCancelled || len(published)+len(asked) != 0 || !strings.Contains(got.err, "packing one package made 2 tarballs") {
		t.Errorf("exit code %d, published %q, asked %q\n%s", got.code, published, asked, got.err)
	}
}

// Only the same bytes are a success: what a registry says in another way, or of more
// than one version, is no word on it.
func TestOnlyTheSameBytesCountAsPublished(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the npm of this test is a shell's script")
	}
	const mine = "sha512-AAAA"
	for name, c := range map[string]struct {
		says string
		code int
		want presence
	}{
		"the same":          {`"` + mine + `"`, 0, same},
		"the same, in list": {`["` + mine + `"]`, 0, same},
		"others":            {`"sha512-BBBB"`, 0, different},
		"another digest":    {`"sha1-AAAA"`, 0, unknown},
		"two":               {`["` + mine + `","sha512-BBBB"]`, 0, unknown},
		"none of a list":    {`[]`, 0, unknown},
		"null":              {`null`, 0, unknown},
		"no JSON":           {mine, 0, unknown},
		"no such version":   {``, 0, absent},
		"no such package":   {`{"error":{"code":"E404"}}`, 1, absent},
		"a failure":         {`"` + mine + `"`, 1, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := filepath.Join(t.TempDir(), "view")
			if err := os.WriteFile(script, []byte(fmt.Sprintf("cat <<'END'\n%s\nEND\nexit %d\n", c.says, c.code)), 0o600); err != nil {
				t.Fatal(err)
			}
			e := &execution{io: stdio{environ: os.Environ}}
			p := &service.Plan{View: func(service.Package) (argv, env []string) { return []string{"sh", script}, nil }}
			if got := e.present(t.Context(), p, tarball{integrity: mine}); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}
