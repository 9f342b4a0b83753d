package acme

// What an authority's refusal means, and what mends it.

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	acmewire "github.com/mholt/acmez/v3/acme"

	"github.com/continuousauth/action/internal/wire"
)

// maxSaid bounds what is repeated of an authority's words.
const maxSaid = 400

// explain gives the reason in the authority's words, or the network's, and what an
// administrator can do about it.
func explain(err error, name string) (why, mend string) {
	if err == nil {
		err = errors.New("no reason was given")
	}
	problem, told := errors.AsType[acmewire.Problem](err)
	if !told {
		return wire.Clean(err.Error(), maxSaid), unreached(err)
	}
	kind := strings.TrimPrefix(problem.Type, acmewire.ProblemTypeNamespace)
	said := problem.Detail
	for _, p := range problem.Subproblems {
		said += "; " + p.Detail
	}
	why = wire.Clean(fmt.Sprintf("the authority says: %s (%s)", said, kind), maxSaid)
	if mend = mends(meant(problem.Type, said), name); mend != "" {
		return why, mend
	}
	// One that only says that there are several has them below.
	for _, p := range problem.Subproblems {
		if mend = mends(p.Type, name); mend != "" {
			return why, mend
		}
	}
	return why, "see what the authority says; what it is asked for is a certificate for " + name
}

// meant is the kind of a problem that has been given a wide one: not every
// authority tells a closed port, or a name that is not there, from a wrong answer.
func meant(kind, said string) string {
	if kind != acmewire.ProblemTypeUnauthorized && kind != acmewire.ProblemTypeMalformed {
		return kind
	}
	said = strings.ToLower(said)
	for _, w := range []struct{ words, kind string }{
		{"could not resolve", acmewire.ProblemTypeDNS}, {"no such host", acmewire.ProblemTypeDNS},
		{"failed to connect", acmewire.ProblemTypeConnection}, {"connection refused", acmewire.ProblemTypeConnection}, {"timeout", acmewire.ProblemTypeConnection},
	} {
		if strings.Contains(said, w.words) {
			return w.kind
		}
	}
	return kind
}

// mends says what to do about a kind of problem; "": it is not known.
func mends(kind, name string) string {
	at := net.JoinHostPort(name, "443")
	switch kind {
	case acmewire.ProblemTypeConnection:
		return "the authority must reach this relay at " + at + ": open the port in each firewall, forward it if the relay listens on another, and if the name has an IPv6 address (AAAA), it must lead here too"
	case acmewire.ProblemTypeDNS:
		return "give " + name + " an A record (AAAA for IPv6) with this machine's public address, and wait until the DNS has it"
	case acmewire.ProblemTypeTLS, acmewire.ProblemTypeUnauthorized, acmewire.ProblemTypeIncorrectResponse:
		return "who answers at " + at + " is not this relay: see that the name leads to this machine, and that nothing in front of it (a CDN, an HTTP proxy) ends TLS"
	case acmewire.ProblemTypeRateLimited:
		return "the authority's limit is used up, so wait as long as it says and mend what failed before; a restart does not help, and each asks once more"
	case acmewire.ProblemTypeCAA:
		return "a CAA record of " + name + ", or of a domain above it, lets other authorities alone certify it: add this one, or choose another (tls.acme.directory)"
	case acmewire.ProblemTypeExternalAccountRequired:
		return "this authority certifies its own customers only: set tls.acme.eab as it has told you"
	case acmewire.ProblemTypeRejectedIdentifier, acmewire.ProblemTypeUnsupportedIdentifier:
		return "this authority does not certify " + name + ": choose another (tls.acme.directory), or use files (tls.cert, tls.key)"
	case acmewire.ProblemTypeInvalidContact, acmewire.ProblemTypeUnsupportedContact:
		return "correct tls.acme.email, or leave it out"
	case acmewire.ProblemTypeUserActionRequired:
		return "the authority wants something of you, such as new terms agreed to: do what it says"
	case acmewire.ProblemTypeServerInternal:
		return "the authority has trouble of its own: wait"
	}
	return ""
}

// unreached says what to do where the authority has not said anything.
func unreached(err error) string {
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, other := errors.AsType[x509.HostnameError](err)
	_, dns := errors.AsType[*net.DNSError](err)
	_, op := errors.AsType[*net.OpError](err)
	switch {
	case unknown:
		return "the authority's own certificate is not trusted here: set tls.acme.ca-file if it is a private one, or install ca-certificates"
	case other:
		return "who answers for the authority has another name: see tls.acme.directory"
	case dns:
		return "the authority's name is not found: see tls.acme.directory and this machine's DNS"
	case op:
		return "the authority cannot be reached: this machine needs HTTPS outward (HTTPS_PROXY is used if it is set)"
	case strings.Contains(err.Error(), "no solvers available"):
		return "the authority does not offer TLS-ALPN-01, the only way that the relay proves its name by: choose another (tls.acme.directory), or use files (tls.cert, tls.key)"
	case strings.Contains(err.Error(), "storage"):
		return "see that the disk of `data` has room and that this user may write it"
	}
	return "see tls.acme in examples/cfa.yaml, or use files (tls.cert, tls.key)"
}
