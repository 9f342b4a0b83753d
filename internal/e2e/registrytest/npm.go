package registrytest

// npm's protocol, as far as a publish needs it.

import (
	"crypto/sha1"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Version is one that was taken.
type Version struct {
	Name      string
	Version   string
	Integrity string // sha512-…, as npm writes it
	Tarball   []byte
	Tag       string // npm: of the publish
}

// document is a package's packument and its tarballs.
type document struct {
	versions map[string]Version
	manifest map[string]map[string]any
	tags     map[string]string
	times    map[string]string
}

// submission is the body of a PUT or of a staging.
type submission struct {
	Name        string                    `json:"name"`
	Tags        map[string]string         `json:"dist-tags"`
	Versions    map[string]map[string]any `json:"versions"`
	Attachments map[string]struct {
		Data   string `json:"data"`
		Length int    `json:"length"`
	} `json:"_attachments"`
}

// Published says whether that version of an npm package is public.
func (r *Registry) Published(name, version string) (Version, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	doc, ok := r.packages[name]
	if !ok {
		return Version{}, false
	}
	v, ok := doc.versions[version]
	return v, ok
}

// Integrity is how npm names these bytes.
func Integrity(tarball []byte) string {
	sum := sha512.Sum512(tarball)
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// Shasum is how npm named them before.
func Shasum(tarball []byte) string {
	sum := sha1.Sum(tarball)
	return hex.EncodeToString(sum[:])
}

// put publishes; r.mu is held.
func (r *Registry) put(path string, body []byte, otp string, trusted bool) reply {
	if answer, failed := r.failure(); failed {
		return answer
	}
	name, ok := packageName(path)
	if !ok {
		return notFound
	}
	v, manifest, refusal := read(name, body)
	if refusal != nil {
		return *refusal
	}
	if over := r.over(v); over != nil {
		return *over
	}
	if answer, demanded := r.demand(otp); demanded && !trusted {
		return answer
	}
	r.add(v, manifest)
	return r.taken(reply{status: http.StatusOK, body: map[string]any{"ok": true, "id": name, "success": true}})
}

// over refuses a version that is there.
func (r *Registry) over(v Version) *reply {
	if doc, ok := r.packages[v.Name]; ok {
		if _, there := doc.versions[v.Version]; there {
			answer := problem(http.StatusForbidden, "You cannot publish over the previously published versions: "+v.Version+".")
			return &answer
		}
	}
	return nil
}

// Publish puts a version there, as somebody else would have.
func (r *Registry) Publish(name, version string, tarball []byte) {
	r.change(func() {
		r.add(Version{Name: name, Version: version, Integrity: Integrity(tarball), Tarball: tarball, Tag: "latest"},
			map[string]any{"name": name, "version": version, "dist": map[string]any{}})
	})
}

// add makes a version public; r.mu is held.
func (r *Registry) add(v Version, manifest map[string]any) {
	doc, ok := r.packages[v.Name]
	if !ok {
		doc = &document{versions: map[string]Version{}, manifest: map[string]map[string]any{}, tags: map[string]string{}, times: map[string]string{}}
		r.packages[v.Name] = doc
	}
	dist, _ := manifest["dist"].(map[string]any)
	dist["integrity"], dist["shasum"] = v.Integrity, Shasum(v.Tarball)
	dist["tarball"] = r.URL() + "/" + v.Name + "/-/" + file(v.Name, v.Version)
	doc.versions[v.Version], doc.manifest[v.Version], doc.tags[v.Tag] = v, manifest, v.Version
	doc.times[v.Version] = time.Now().UTC().Format(time.RFC3339)
}

// file is a tarball's name in its address: without the scope.
func file(name, version string) string {
	return name[strings.LastIndexByte(name, '/')+1:] + "-" + version + ".tgz"
}

// packageName reads a name out of a path: `/name`, `/@scope%2fname` as npm
// sends it, or `/@scope/name`.
func packageName(path string) (string, bool) {
	name, err := url.PathUnescape(strings.TrimPrefix(path, "/"))
	if err != nil || name == "" || len(name) > 214 {
		return "", false
	}
	scope, rest, scoped := strings.Cut(name, "/")
	if scoped != strings.HasPrefix(name, "@") || scoped && (len(scope) < 2 || rest == "" || strings.Contains(rest, "/")) {
		return "", false
	}
	return name, true
}

// read takes a submission apart, and refuses one whose digests do not fit its bytes.
func read(name string, body []byte) (Version, map[string]any, *reply) {
	refuse := func(text string) (Version, map[string]any, *reply) {
		answer := problem(http.StatusBadRequest, text)
		return Version{}, nil, &answer
	}
	var s submission
	if err := json.Unmarshal(body, &s); err != nil {
		return refuse("the body is no JSON: " + err.Error())
	}
	if s.Name != name || len(s.Versions) != 1 {
		return refuse("one version of " + name + " is expected")
	}
	version := names(s.Versions)[0]
	manifest := s.Versions[version]
	dist, ok := manifest["dist"].(map[string]any)
	if !ok || manifest["version"] != version || manifest["name"] != name {
		return refuse("the version's manifest does not fit its name")
	}
	var tarball []byte
	for _, file := range names(s.Attachments) {
		if a := s.Attachments[file]; strings.HasSuffix(file, ".tgz") {
			data, err := base64.StdEncoding.DecodeString(a.Data)
			if err != nil || len(data) != a.Length {
				return refuse("the attachment is damaged")
			}
			tarball = data
		}
	}
	if len(tarball) == 0 {
		return refuse("no tarball is attached")
	}
	if shasum, ok := dist["shasum"].(string); ok && shasum != Shasum(tarball) {
		return refuse("dist.shasum is not the tarball's")
	}
	if integrity, ok := dist["integrity"].(string); ok && integrity != Integrity(tarball) {
		return refuse("dist.integrity is not the tarball's")
	}
	v := Version{Name: name, Version: version, Integrity: Integrity(tarball), Tarball: tarball, Tag: "latest"}
	for tag, of := range s.Tags {
		if of == version {
			v.Tag = tag
		}
	}
	return v, manifest, nil
}

func (r *Registry) document(path string) (*document, string) {
	name, ok := packageName(path)
	if !ok {
		return nil, ""
	}
	return r.packages[name], name
}

func (r *Registry) packument(path string) reply {
	doc, name := r.document(path)
	if doc == nil {
		return notFound
	}
	return reply{status: http.StatusOK, body: map[string]any{
		"_id": name, "name": name, "dist-tags": doc.tags, "versions": doc.manifest, "time": doc.times,
	}}
}

func (r *Registry) tags(path string) reply {
	doc, _ := r.document(strings.TrimSuffix(strings.TrimPrefix(path, "/-/package"), "/dist-tags"))
	if doc == nil {
		return notFound
	}
	return reply{status: http.StatusOK, body: doc.tags}
}

func (r *Registry) tarball(path string) reply {
	before, wanted, _ := strings.Cut(path, "/-/")
	doc, name := r.document(before)
	if doc == nil {
		return notFound
	}
	for _, version := range names(doc.versions) {
		if file(name, version) == wanted {
			return reply{status: http.StatusOK, body: slices.Clone(doc.versions[version].Tarball)}
		}
	}
	return notFound
}
