package wire

import (
	"net/url"
	"strings"
	"testing"
)

func TestALinkIsWhatEachReaderReadsAlike(t *testing.T) {
	t.Parallel()
	for link, host := range map[string]string{
		"https://www.npmjs.com/auth/cli/2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11": "www.npmjs.com",
		"https://www.npmjs.com":                                        "www.npmjs.com",
		"https://rubygems.org?port=4242":                               "rubygems.org",
		"https://registry.example.com:8443/login?a=b&c=%2F@x;y,(z)!*'": "registry.example.com:8443",
		"https://xn--nmjs-8ua.com/":                                    "xn--nmjs-8ua.com",
		"http://localhost:4873/-/v1/login/x":                           "localhost:4873",
		"http://127.0.0.1:1/":                                          "127.0.0.1:1",
		"http://[::1]:4873/x":                                          "[::1]:4873",
		"https://192.0.2.7/x":                                          "192.0.2.7",
	} {
		if err := CheckLink(link); err != nil {
			t.Errorf("%s: %v", link, err)
		}
		if got := LinkHost(link); got != host {
			t.Errorf("%s: host %q, want %q", link, got, host)
		}
		if err := CheckLinkHost(host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, link := range []string{
		"", "https://", "https:///www.npmjs.com", "https:/www.npmjs.com", "//www.npmjs.com", "www.npmjs.com", "HTTPS://www.npmjs.com", "ftp://www.npmjs.com",
		"javascript:alert(1)//https://www.npmjs.com", "data:text/html,x", "file:///etc/passwd", "https:www.npmjs.com",
		"https://www.npmjs.com@evil.example/", "https://a:b@www.npmjs.com/", "https://@www.npmjs.com/",
		"https://evil.example#@www.npmjs.com/", "https://www.npmjs.com/x#y", `https://evil.example\\@www.npmjs.com/`, `https://www.npmjs.com\\.evil.example/`,
		"https://WWW.npmjs.com/", "https://www.npmjs.com./", "https://www..npmjs.com/", "https://-x.com/", "https://www.npmjs.com:/", "https://www.npmjs.com:0/",
		"https://www.npmjs.com:080/", "https://www.npmjs.com:123456/", "https://www.npmjs.com:4a/", "https://www%2enpmjs.com/", "https://[::2]/", "https://[www.npmjs.com]/",
		"https://www.npmjs.com/ x", "https://www.npmjs.com/\tx", "https://www.npmjs.com/\n", "\nhttps://www.npmjs.com/", "https://www.npmjs.com/\x00", "https://www.npmjs.com/\x1b[2K",
		"https://www.npmjs.\u0441om/", "https://www.npmjs.com/\u202egpj", "https://www.npmjs.com/%zz", "https://www.npmjs.com/<x>", `https://www.npmjs.com/"x`, "https://www.npmjs.com/`id`",
		"http://www.npmjs.com/", "http://localhost.evil.example/", "http://127.0.0.1.evil.example/", "http://2130706433/", "http://0x7f.1/", "http://0.0.0.0/", "http://192.168.0.1/",
		"https://" + strings.Repeat("a.", 140) + "com/", "https://a.example/" + strings.Repeat("x", MaxLink),
	} {
		if err := CheckLink(link); err == nil {
			t.Errorf("%q passes", link)
		}
		if got := LinkHost(link); got != "" {
			t.Errorf("%q: host %q of what is no link", link, got)
		}
	}
}

func TestALinkIsUnderAPathOnlyInItsPlainSpelling(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]bool{
		"https://www.npmjs.com/auth/cli/2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11": true,
		"https://www.npmjs.com/auth/cli/a?port=1":                             true,
		"http://localhost:4873/auth/cli/a_b":                                  true,
		"https://www.npmjs.com/login?next=/login/cli/1":                       false,
		"https://www.npmjs.com/login?next=/auth/cli/1":                        false,
		"https://www.npmjs.com/?x=/auth/cli/1":                                false,
		"https://www.npmjs.com?/auth/cli/1":                                   false,
		"https://www.npmjs.com/login/auth/cli/1":                              false,
		"https://www.npmjs.com/auth/cli/":                                     false,
		"https://www.npmjs.com/auth/cli":                                      false,
		"https://www.npmjs.com/auth/cli/1/2":                                  false,
		"https://www.npmjs.com/auth/cli/1/":                                   false,
		"https://www.npmjs.com/auth/cli/..":                                   false,
		"https://www.npmjs.com/auth/cli/.":                                    false,
		"https://www.npmjs.com/auth/cli/../../login":                          false,
		"https://www.npmjs.com/auth/cli/%2e%2e":                               false,
		"https://www.npmjs.com/auth/cli/..%2f..%2flogin":                      false,
		"https://www.npmjs.com/auth/cli/1;x":                                  false,
		"https://www.npmjs.com//auth/cli/1":                                   false,
		"https://www.npmjs.com/AUTH/cli/1":                                    false,
		"https://www.npmjs.com/%61uth/cli/1":                                  false,
		"https://www.npmjs.com@evil.example/auth/cli/1":                       false,
		"http://www.npmjs.com/auth/cli/1":                                     false,
		"":                                                                    false,
	} {
		if LinkUnder(link, "/auth/cli/") != want {
			t.Errorf("%s: want %v", link, want)
		}
	}
}

func TestAHostThatNoLinkHasIsRefused(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"", "*", "*.npmjs.com", ".npmjs.com", "www.npmjs.com/", "https://www.npmjs.com", "www.npmjs.com?x", "WWW.npmjs.com", "a@b", "www.npmjs.com ", "a b", "w\u0456dgets.com", "x:0"} {
		if CheckLinkHost(host) == nil {
			t.Errorf("%q passes", host)
		}
	}
}

// FuzzLink: of what passes, the standard parser must find the very host that
// policy is asked about, and nothing that moves it.
func FuzzLink(f *testing.F) {
	seed(f, func(s string) { f.Add(s) }, []string{
		"https://www.npmjs.com/auth/cli/2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11", "http://127.0.0.1:4873/x?y=z", "http://[::1]/", "https://a@b.example/", `https://a\\@b.example/`,
		"https://a.example#@b.example", "https://a.example:443?x", "https://a.example/%2e%2e/@", "https:///x", "https://a.example:99999/",
		"https://a.example/auth/x?y", "https://a.example/auth/..", "https://a.example/auth/%2e%2e",
	})
	f.Fuzz(func(t *testing.T, s string) {
		if CheckLink(s) != nil {
			if LinkHost(s) != "" {
				t.Fatalf("%q has a host and is no link", s)
			}
			return
		}
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Host != LinkHost(s) || u.User != nil || u.Fragment != "" || u.Opaque != "" {
			t.Fatalf("%q: %+v, %v; host %q", s, u, err, LinkHost(s))
		}
		if !strings.HasPrefix(s, u.Scheme+"://"+u.Host) || u.String() == "" {
			t.Fatalf("%q does not begin with %s://%s", s, u.Scheme, u.Host)
		}
		if u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
			t.Fatalf("%q: scheme %s", s, u.Scheme)
		}
		// A browser resolves what it opens; that must lead to the same page.
		if LinkUnder(s, "/auth/") && !strings.HasPrefix(u.JoinPath().Path, "/auth/") {
			t.Fatalf("%q leads to %s", s, u.Path)
		}
		if Clean(s, len(s)) != s {
			t.Fatalf("%q is not shown as it is", s)
		}
	})
}
