package main

// What this human has answered before, so that what is new stands out: another
// actor, workflow, branch or environment than in everything that they have said yes
// to of this project.
//
// The rule it keeps: it only ever marks. What is remembered makes nothing
// answerable, and what is forgotten (a damaged file, a new machine) is marked once
// more. Only a yes is remembered; a prompt that was looked at, or declined, is not
// known for that.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

const (
	seenFile = "seen.json"
	maxSeen  = 8 << 20
	// mostSeen of each fact are kept, the last ones that were answered, of the
	// mostSeenProjects that were answered last.
	mostSeen         = 32
	mostSeenProjects = 128
	longestSeen      = 200 // characters, as a desk cuts them
)

// memory is answer.Memory in a file. Two programs may use one: each reads what the
// other has written before it writes.
type memory struct {
	path string // "": it is kept in memory only
	log  *slog.Logger

	mu     sync.Mutex
	seen   map[string]seenProject // by relay and project
	notice string
	dirty  bool // there is more to write than the writer has taken
	writes bool // the writer runs
	idle   *sync.Cond
}

// seenProject is what was answered of one project at one relay, each list in the
// order in which its values were answered last.
type seenProject struct {
	At    int64               `json:"at"` // when it was answered last, Unix seconds
	Facts map[string][]string `json:"facts"`
}

// seenContent is the file's.
type seenContent struct {
	V        int                    `json:"v"`
	Projects map[string]seenProject `json:"projects"`
}

// newMemory reads what is remembered in a directory.
func newMemory(dir string, log *slog.Logger) *memory {
	m := &memory{log: log, seen: map[string]seenProject{}}
	m.idle = sync.NewCond(&m.mu)
	if dir == "" {
		return m
	}
	m.path = filepath.Join(dir, seenFile)
	seen, err := readSeen(m.path)
	switch {
	case err == nil:
		m.seen = seen
	case errors.Is(err, errSeenDamaged):
		// Put aside rather than overwritten: it is the only copy.
		aside := m.path + ".damaged"
		m.notice = fmt.Sprintf("what you have answered before cannot be read (%s), so everything is marked as new once more", wire.Clean(err.Error(), 300))
		if err := os.Rename(m.path, aside); err == nil {
			m.notice += "; the file is " + wire.Clean(aside, 300) + " now"
		}
	default:
		m.path = ""
		m.notice = fmt.Sprintf("what you have answered before is neither read nor kept, so everything is marked as new: %s", wire.Clean(err.Error(), 300))
	}
	return m
}

// said is what its human should know of the file, once.
func (m *memory) said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.notice
}

var errSeenDamaged = errors.New("the file is damaged")

// readSeen reads the file. One that is not there is empty.
func readSeen(path string) (map[string]seenProject, error) {
	data, err := readOwn(path, maxSeen, 0o022)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]seenProject{}, nil
	}
	if err != nil {
		return nil, err
	}
	return parseSeen(data)
}

func parseSeen(data []byte) (map[string]seenProject, error) {
	var c seenContent
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil || d.More() {
		return nil, fmt.Errorf("%w: it is not what this program writes", errSeenDamaged)
	}
	if c.V != 1 {
		return nil, fmt.Errorf("%w: it is of version %d, and this program knows version 1", errSeenDamaged, c.V)
	}
	if len(c.Projects) > mostSeenProjects {
		return nil, fmt.Errorf("%w: it has %d projects, and at most %d are kept", errSeenDamaged, len(c.Projects), mostSeenProjects)
	}
	for _, p := range c.Projects {
		for name, values := range p.Facts {
			if !slices.Contains(seenNames, name) || len(values) > mostSeen || slices.ContainsFunc(values, func(s string) bool { return len(s) > 16*longestSeen }) {
				return nil, fmt.Errorf("%w: it has facts that this program does not keep", errSeenDamaged)
			}
		}
	}
	if c.Projects == nil {
		c.Projects = map[string]seenProject{}
	}
	return c.Projects, nil
}

// seenNames are the facts, in the order in which a prompt names them.
var seenNames = []string{answer.NewRepository, answer.NewWorkflow, answer.NewRef, answer.NewEnvironment, answer.NewActor}

// seenFacts are a job's, as far as they are remembered.
func seenFacts(f answer.Facts) map[string]string {
	workflow := f.WorkflowFile
	if workflow == "" {
		workflow = f.Workflow
	}
	return map[string]string{
		answer.NewRepository: f.Repository, answer.NewWorkflow: workflow, answer.NewRef: seenRef(f.Ref),
		answer.NewEnvironment: f.Environment, answer.NewActor: f.Actor,
	}
}

// seenRef is what of a ref can come again. Each tag is new, and so is each pull
// request: that it is one is what a human may not have met.
func seenRef(ref string) string {
	for _, kind := range [][2]string{{"refs/tags/", "a tag"}, {"refs/pull/", "a pull request"}, {"refs/merge-requests/", "a merge request"}} {
		if strings.HasPrefix(ref, kind[0]) {
			return kind[1]
		}
	}
	return ref
}

// seenKey names a project: two relays may each have one of that name.
func seenKey(relay, project string) string { return relay + "/" + project }

// New is answer.Memory's.
func (m *memory) New(relay, project string, f answer.Facts) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.seen[seenKey(relay, project)]
	facts := seenFacts(f)
	for _, name := range seenNames {
		values := before.Facts[name]
		// That there is no environment is news only where there was one.
		if facts[name] == "" && len(values) == 0 || slices.Contains(values, facts[name]) {
			continue
		}
		names = append(names, name)
	}
	return names
}

// Answered is answer.Memory's. It writes beside its caller, who is a desk at work.
func (m *memory) Answered(relay, project string, f answer.Facts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := seenKey(relay, project)
	p := m.seen[key]
	p.At = time.Now().Unix()
	p.Facts = maps.Clone(p.Facts)
	if p.Facts == nil {
		p.Facts = map[string][]string{}
	}
	for name, value := range seenFacts(f) {
		p.Facts[name] = withLast(p.Facts[name], value)
	}
	m.seen[key] = p
	m.bound()
	if m.path == "" {
		return
	}
	m.dirty = true
	if !m.writes {
		m.writes = true
		go m.write()
	}
}

// withLast is a list with a value at its end, without its first where it is full.
func withLast(list []string, value string) []string {
	out := append(slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == value }), value)
	return out[max(0, len(out)-mostSeen):]
}

// bound forgets the projects that were answered longest ago.
func (m *memory) bound() {
	for len(m.seen) > mostSeenProjects {
		oldest := ""
		for key, p := range m.seen {
			if oldest == "" || p.At < m.seen[oldest].At || p.At == m.seen[oldest].At && key < oldest {
				oldest = key
			}
		}
		delete(m.seen, oldest)
	}
}

// write writes until nothing is left to write.
func (m *memory) write() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.dirty {
		m.dirty = false
		m.mu.Unlock()
		other, err := readSeen(m.path)
		m.mu.Lock()
		if err == nil {
			m.merge(other)
		}
		data, encodeErr := json.Marshal(seenContent{V: 1, Projects: m.seen})
		m.mu.Unlock()
		if encodeErr == nil {
			encodeErr = replace(m.path, append(data, '\n'))
		}
		if encodeErr != nil && m.log != nil {
			m.log.Warn("what was answered is not remembered", "error", encodeErr)
		}
		m.mu.Lock()
	}
	m.writes = false
	m.idle.Broadcast()
}

// merge takes in what another program of this user has written since.
func (m *memory) merge(other map[string]seenProject) {
	for key, o := range other {
		p, known := m.seen[key]
		if !known {
			m.seen[key] = o
			continue
		}
		facts := map[string][]string{}
		for _, name := range seenNames {
			for _, list := range [][]string{o.Facts[name], p.Facts[name]} {
				for _, v := range list {
					facts[name] = withLast(facts[name], v)
				}
			}
		}
		m.seen[key] = seenProject{At: max(o.At, p.At), Facts: facts}
	}
	m.bound()
}

// settled waits until what was answered is written.
func (m *memory) settled() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.writes {
		m.idle.Wait()
	}
}
