package registrytest

// RubyGems' protocol, as far as `gem push` needs it.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"go.yaml.in/yaml/v3"
)

const gemsPath = "/api/v1/gems"

// What rubygems.org says; gem 3.3 decides by how the first one begins.
const (
	GemMissing = "You have enabled multifactor authentication but no OTP code provided. Please fill it and retry."
	GemWrong   = "Your OTP code is incorrect. Please check it and retry."
	GemAgain   = "Repushing of gem versions is not allowed.\nPlease bump the version number and push a new different release.\nSee also `gem yank` if you want to unpublish the bad release."
)

// Pushed says whether that version of a gem is there. Its Tarball is the .gem file.
func (r *Registry) Pushed(name, version string) (Version, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gem(name, version)
}

func (r *Registry) gem(name, version string) (Version, bool) {
	for _, v := range r.gems[name] {
		if v.Version == version {
			return v, true
		}
	}
	return Version{}, false
}

func text(status int, s string) reply { return reply{status: status, body: s} }

// rubygems answers below /api/v1; r.mu is held.
func (r *Registry) rubygems(method, path string, known bool, body []byte, otp string) reply {
	switch {
	case !known:
		return text(http.StatusUnauthorized, "Access Denied. Please sign up for an account at https://rubygems.org")
	case method == http.MethodGet && path == "/api/v1/profile/me.yaml":
		return text(http.StatusOK, "---\nhandle: "+user+"\nmfa: ui_and_api\n")
	case strings.HasPrefix(path, verificationPath):
		return r.verification(method, strings.TrimPrefix(path, verificationPath))
	case method != http.MethodPost || path != gemsPath:
		return text(http.StatusNotFound, "Not Found")
	}
	if r.faults.limited > 0 {
		r.faults.limited--
		answer := text(http.StatusTooManyRequests, "Retry later\n")
		if r.faults.retryAfter >= 0 {
			answer.header = map[string]string{"retry-after": fmt.Sprint(r.faults.retryAfter)}
		}
		return answer
	}
	if r.faults.forbidden != "" {
		return text(http.StatusForbidden, r.faults.forbidden)
	}
	if r.config.Factor != None {
		if otp == "" {
			return text(http.StatusUnauthorized, GemMissing)
		}
		if answer, demanded := r.demand(otp); demanded {
			if answer.status == http.StatusTooManyRequests {
				return text(answer.status, "Retry later\n")
			}
			return text(http.StatusUnauthorized, GemWrong)
		}
	}
	name, version, err := gemspec(body)
	if err != nil {
		return text(http.StatusUnprocessableEntity, "RubyGems.org cannot process this gem.\nPlease try rebuilding it and installing it locally to make sure it's valid.\nError:\n"+err.Error())
	}
	if _, there := r.gem(name, version); there {
		return text(http.StatusConflict, GemAgain)
	}
	r.gems[name] = append(r.gems[name], Version{Name: name, Version: version, Integrity: Integrity(body), Tarball: body})
	return r.taken(text(http.StatusOK, fmt.Sprintf("Successfully registered gem: %s (%s)", name, version)))
}

const verificationPath = "/api/v1/webauthn_verification"

// verification is the link that newer gems ask for when a code is missing: its
// page is [Registry.Visit]ed as any, and the code that comes of it goes where a
// typed one goes. r.mu is held.
func (r *Registry) verification(method, rest string) reply {
	if r.config.Factor != Link && r.config.Factor != Both {
		return text(http.StatusUnprocessableEntity, "You don't have any security devices")
	}
	if rest == "" && method == http.MethodPost {
		return text(http.StatusOK, r.newLink("/webauthn_verification/"))
	}
	id, ok := strings.CutSuffix(strings.TrimPrefix(rest, "/"), "/status.json")
	if !ok || method != http.MethodGet {
		return text(http.StatusNotFound, "Not Found")
	}
	l := r.link(id)
	status := map[string]string{"status": "pending"}
	switch {
	case l == nil:
		status = map[string]string{"status": "expired", "message": "The token in the link you used has either expired or been used already."}
	case l.visited:
		status = map[string]string{"status": "success", "code": l.token}
	}
	return reply{status: http.StatusOK, body: status}
}

// gemspec reads name and version out of a .gem file: a tar with metadata.gz in it.
func gemspec(file []byte) (name, version string, err error) {
	for t := tar.NewReader(bytes.NewReader(file)); ; {
		h, err := t.Next()
		if err == io.EOF {
			return "", "", errors.New("no metadata.gz in it")
		}
		if err != nil {
			return "", "", err
		}
		if h.Name != "metadata.gz" {
			continue
		}
		z, err := gzip.NewReader(t)
		if err != nil {
			return "", "", err
		}
		var spec struct {
			Name    string `yaml:"name"`
			Version struct {
				Version string `yaml:"version"`
			} `yaml:"version"`
		}
		if err := yaml.NewDecoder(io.LimitReader(z, maxBody)).Decode(&spec); err != nil {
			return "", "", err
		}
		if spec.Name == "" || spec.Version.Version == "" {
			return "", "", errors.New("no name or no version in its metadata")
		}
		return spec.Name, spec.Version.Version, nil
	}
}

// GemFile is a .gem file that says no more than its name and version.
func GemFile(name, version string) []byte {
	var spec, file bytes.Buffer
	z := gzip.NewWriter(&spec)
	fmt.Fprintf(z, "name: %s\nversion: {version: %s}\n", name, version)
	_ = z.Close() // into memory, as what follows
	t := tar.NewWriter(&file)
	_ = t.WriteHeader(&tar.Header{Name: "metadata.gz", Mode: 0o444, Size: int64(spec.Len())})
	_, _ = t.Write(spec.Bytes())
	_ = t.Close()
	return file.Bytes()
}
