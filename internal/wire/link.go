package wire

// Links: what a human is asked to follow. A link comes from a job, hence from
// whatever runs in it, and ends in a human's browser, which reads an address by
// rules of its own. So only the spelling that every reader takes the same way is
// let through: one scheme, one host, nothing that a browser repairs (it takes
// "\\" for "/", drops tabs and line breaks, maps look-alike hosts).

import (
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// linkHost is a host in its one spelling, with a port where it has one.
var linkHost = regexp.MustCompile(`^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[::1\])(?::[1-9][0-9]{0,4})?$`)

// CheckLink says whether s is a link that a human may be shown: https (plain
// http for loopback only), a host, no user name, no fragment, printable ASCII,
// at most MaxLink bytes. Which hosts are allowed is policy, and not said here.
func CheckLink(s string) error {
	_, err := parseLink(s)
	return err
}

// LinkHost is the host of a link, with the port if it names one; "" for what
// [CheckLink] refuses. Policy compares it exactly.
func LinkHost(s string) string {
	host, err := parseLink(s)
	if err != nil {
		return ""
	}
	return host
}

// LinkUnder says whether a link leads to a page directly under path, which begins
// and ends with a slash: one more segment, of characters that no browser and no
// server takes for anything else (".." or its escapes would lead out again), and
// perhaps a query.
func LinkUnder(s, path string) bool {
	host, err := parseLink(s)
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(s, "://"+host)
	rest, _, _ = strings.Cut(rest, "?")
	page, under := strings.CutPrefix(rest, path)
	return under && linkPage.MatchString(page)
}

var linkPage = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// CheckLinkHost says whether s can be the host of a link, as policy writes it.
func CheckLinkHost(s string) error {
	if host, err := parseLink("https://" + s); err != nil || host != s {
		return malformed("not the host of a link (lower case, as in www.example.com or www.example.com:8443, nothing else)")
	}
	return nil
}

func parseLink(s string) (host string, err error) {
	if len(s) > MaxLink {
		return "", malformed("link of %d bytes, at most %d are allowed", len(s), MaxLink)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~:/?[]@!$&'()*+,;=%", c) >= 0:
		default:
			return "", malformed("link with a character that no link needs")
		}
	}
	rest, secure := strings.CutPrefix(s, "https://")
	if !secure {
		var plain bool
		if rest, plain = strings.CutPrefix(s, "http://"); !plain {
			return "", malformed("link that does not begin with https://")
		}
	}
	host = rest
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host = rest[:i]
	}
	if len(host) > 253+6 || !linkHost.MatchString(host) {
		return "", malformed("link without a plain host (lower case, no user name)")
	}
	// The last word is the standard parser's, which knows percent signs and ports.
	u, err := url.Parse(s)
	if err != nil || u.Host != host || u.User != nil || u.Opaque != "" {
		return "", malformed("link that does not parse")
	}
	if !secure && !loopback(u.Hostname()) {
		return "", malformed("link that does not begin with https:// (http:// is for loopback only)")
	}
	return host, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
