package registrytest

// Staging: what is handed in waits for somebody with a second factor.

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Staged is a version that waits.
type Staged struct {
	ID string
	Version
	manifest map[string]any
	at       time.Time
}

func (s *Staged) item() map[string]any {
	return map[string]any{
		"id": s.ID, "packageName": s.Name, "version": s.Version.Version, "tag": s.Tag, "createdAt": s.at.UTC().Format(time.RFC3339),
		"actor": user, "actorType": "user", "shasum": Shasum(s.Tarball),
	}
}

// Staged are the versions that wait, the oldest first.
func (r *Registry) Staged() []Staged {
	r.mu.Lock()
	defer r.mu.Unlock()
	var waiting []Staged
	for _, s := range r.staged {
		waiting = append(waiting, *s)
	}
	return waiting
}

// Approve is the human: it makes a staged version public, as the page does.
func (r *Registry) Approve(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, s := range r.staged {
		if s.ID == id {
			r.add(s.Version, s.manifest)
			r.staged = slices.Delete(r.staged, i, i+1)
			r.tell()
			return true
		}
	}
	return false
}

// stage answers below /-/stage; r.mu is held.
func (r *Registry) stage(req *http.Request, path string, body []byte, otp string) reply {
	rest := strings.TrimPrefix(strings.TrimPrefix(path, "/-/stage"), "/")
	if escaped, ok := strings.CutPrefix(rest, "package/"); ok && req.Method == http.MethodPost {
		return r.submit("/"+escaped, body)
	}
	if rest == "" {
		return r.list(req)
	}
	id, verb, _ := strings.Cut(rest, "/")
	at := slices.IndexFunc(r.staged, func(s *Staged) bool { return s.ID == id })
	if at < 0 {
		return problem(http.StatusNotFound, "Staged package not found")
	}
	s := r.staged[at]
	switch {
	case verb == "" && req.Method == http.MethodGet:
		return reply{status: http.StatusOK, body: s.item()}
	case verb == "tarball" && req.Method == http.MethodGet:
		return reply{status: http.StatusOK, body: slices.Clone(s.Tarball)}
	case verb == "approve" && req.Method == http.MethodPost, verb == "" && req.Method == http.MethodDelete:
	default:
		return notFound
	}
	if answer, failed := r.failure(); failed {
		return answer
	}
	if over := r.over(s.Version); over != nil && verb == "approve" {
		return *over
	}
	if answer, demanded := r.demand(otp); demanded {
		return answer
	}
	r.staged = slices.Delete(r.staged, at, at+1)
	if verb == "approve" {
		r.add(s.Version, s.manifest)
	}
	return r.taken(reply{status: http.StatusOK, body: map[string]any{"ok": true}})
}

// submit stages: without a second factor, which is the point of it.
func (r *Registry) submit(path string, body []byte) reply {
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
	s := &Staged{ID: uuid(), Version: v, manifest: manifest, at: time.Now()}
	r.staged = append(r.staged, s)
	return r.taken(reply{status: http.StatusCreated, body: map[string]any{"ok": true, "stageId": s.ID}})
}

func (r *Registry) list(req *http.Request) reply {
	if req.Method != http.MethodGet {
		return notFound
	}
	query := req.URL.Query()
	page, err := strconv.Atoi(query.Get("page"))
	if err != nil || page < 0 {
		page = 0
	}
	per, err := strconv.Atoi(query.Get("perPage"))
	if err != nil || per < 1 || per > 100 {
		per = 100
	}
	items := []any{}
	for _, s := range r.staged {
		if only := query.Get("package"); only == "" || only == s.Name {
			items = append(items, s.item())
		}
	}
	total := len(items)
	// Compared by division: a page number near the largest int would overflow a product.
	if page > total/per {
		items = items[:0]
	} else {
		items = items[page*per:]
	}
	return reply{status: http.StatusOK, body: map[string]any{"items": items[:min(per, len(items))], "total": total}}
}
