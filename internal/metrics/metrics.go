// Package metrics counts and measures, and writes what it has as text that
// Prometheus reads (exposition format 0.0.4).
//
// The rule it keeps: **what a stranger sends never grows it.** A label's values
// come from the program or from its file; should a mistake let others in, each
// metric holds a bounded number of series, and the rest is counted as "other".
//
// By hand, because the format is six lines of grammar: client_golang brings 8
// modules with some 45,000 lines, and 2.9 MB into the relay, for it.
package metrics

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ContentType is what the text is served as.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// mostSeries bounds the series of one metric, and maxValue the bytes of a label's
// value.
const (
	mostSeries = 5000
	maxValue   = 300
)

// Other is the value of every label where there would be too many.
const Other = "other"

// Registry holds metrics in the order in which they were made.
type Registry struct {
	mu       sync.Mutex
	families []*family
}

type family struct {
	name, help, kind string
	labels           []string
	buckets          []float64                               // of a histogram: upper bounds, ascending
	read             func(set func(v float64, of ...string)) // of a gauge: called when it is written

	mu     sync.Mutex
	series map[string]*series // by values, joined by 0xFF, which no text holds
}

type series struct {
	values []string
	v      float64  // a histogram: the sum
	count  uint64   // of a histogram
	within []uint64 // of a histogram: those in each bucket alone
}

var goodName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// add panics where the program names a metric wrongly: no input can cause it.
func (r *Registry) add(f *family) *family {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range append([]string{f.name}, f.labels...) {
		if !goodName.MatchString(name) || name == "le" {
			panic("metrics: not a name: " + name)
		}
	}
	if slices.ContainsFunc(r.families, func(o *family) bool { return o.name == f.name }) {
		panic("metrics: twice: " + f.name)
	}
	f.series = map[string]*series{}
	r.families = append(r.families, f)
	return f
}

// at is the series with these values, made if it is not there. The family is
// locked.
func (f *family) at(values []string) *series {
	if len(values) != len(f.labels) {
		panic(fmt.Sprintf("metrics: %s has %d labels, and %d values came", f.name, len(f.labels), len(values)))
	}
	clean := make([]string, len(values))
	for i, v := range values {
		if len(v) > maxValue {
			v = v[:maxValue]
		}
		clean[i] = strings.ToValidUTF8(v, "?")
	}
	key := strings.Join(clean, "\xff")
	s := f.series[key]
	if s == nil && len(f.series) >= mostSeries {
		for i := range clean {
			clean[i] = Other
		}
		key = strings.Join(clean, "\xff")
		s = f.series[key]
	}
	if s == nil {
		s = &series{values: clean, within: make([]uint64, len(f.buckets))}
		f.series[key] = s
	}
	return s
}

// Counter only grows.
type Counter struct{ f *family }

// Counter makes one. Its name ends in _total.
func (r *Registry) Counter(name, help string, labels ...string) *Counter {
	if !strings.HasSuffix(name, "_total") {
		panic("metrics: a counter's name ends in _total: " + name)
	}
	return &Counter{r.add(&family{name: name, help: help, kind: "counter", labels: labels})}
}

// Add counts n more, which is not negative: with 0 the series is there before
// anything has happened, and a first event is seen as a change.
func (c *Counter) Add(n float64, of ...string) {
	if n < 0 || math.IsNaN(n) {
		return
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.at(of).v += n
}

// Histogram says how values are spread.
type Histogram struct{ f *family }

// Histogram makes one with the upper bounds of its buckets, ascending.
func (r *Registry) Histogram(name, help string, buckets []float64, labels ...string) *Histogram {
	if !slices.IsSorted(buckets) || len(buckets) == 0 {
		panic("metrics: buckets do not ascend: " + name)
	}
	return &Histogram{r.add(&family{name: name, help: help, kind: "histogram", labels: labels, buckets: buckets})}
}

// Observe takes one value in.
func (h *Histogram) Observe(v float64, of ...string) {
	if math.IsNaN(v) {
		return
	}
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	s := h.f.at(of)
	s.count++
	s.v += v
	if i, _ := slices.BinarySearch(h.f.buckets, v); i < len(s.within) {
		s.within[i]++
	}
}

// Gauge makes a metric whose values are asked for when they are written: read
// calls set once for each series.
func (r *Registry) Gauge(name, help string, labels []string, read func(set func(v float64, of ...string))) {
	r.add(&family{name: name, help: help, kind: "gauge", labels: labels, read: read})
}

// Names are the metrics' names, in their order.
func (r *Registry) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, f := range r.families {
		names = append(names, f.name)
	}
	return names
}

// Write writes all of them. A gauge without a value is left out: 0 would be one.
func (r *Registry) Write(to io.Writer) error {
	r.mu.Lock()
	families := slices.Clone(r.families)
	r.mu.Unlock()
	w := bufio.NewWriter(to)
	for _, f := range families {
		f.write(w)
	}
	return w.Flush()
}

func (f *family) write(w *bufio.Writer) {
	if f.read != nil {
		now := &family{name: f.name, labels: f.labels, series: map[string]*series{}}
		f.read(func(v float64, of ...string) { now.at(of).v = v })
		f = &family{name: f.name, help: f.help, kind: f.kind, labels: f.labels, series: now.series}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.series) == 0 {
		return
	}
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", f.name, escape(f.help, false), f.name, f.kind)
	for _, key := range slices.Sorted(maps.Keys(f.series)) {
		s := f.series[key]
		if f.kind != "histogram" {
			f.line(w, "", s.values, "", number(s.v))
			continue
		}
		sum := uint64(0)
		for i, upper := range f.buckets {
			sum += s.within[i]
			f.line(w, "_bucket", s.values, number(upper), strconv.FormatUint(sum, 10))
		}
		f.line(w, "_bucket", s.values, "+Inf", strconv.FormatUint(s.count, 10))
		f.line(w, "_sum", s.values, "", number(s.v))
		f.line(w, "_count", s.values, "", strconv.FormatUint(s.count, 10))
	}
}

func (f *family) line(w *bufio.Writer, suffix string, values []string, le, v string) {
	w.WriteString(f.name + suffix)
	var pairs []string
	for i, l := range f.labels {
		pairs = append(pairs, l+`="`+escape(values[i], true)+`"`)
	}
	if le != "" {
		pairs = append(pairs, `le="`+le+`"`)
	}
	if len(pairs) > 0 {
		w.WriteString("{" + strings.Join(pairs, ",") + "}")
	}
	w.WriteString(" " + v + "\n")
}

// escape keeps text from ending its line or its quotation marks: else a label's
// value could write metrics of its own.
func escape(s string, quoted bool) string {
	s = strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(s)
	if quoted {
		s = strings.ReplaceAll(s, `"`, `\"`)
	}
	return s
}

func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
