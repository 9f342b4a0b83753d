package metrics

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

func text(t *testing.T, r *Registry) string {
	t.Helper()
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTheTextIsWhatPrometheusReads(t *testing.T) {
	t.Parallel()
	r := &Registry{}
	c := r.Counter("a_total", "Some things.\nAnd \\ more.", "project", "code")
	c.Add(1, "rocket", "b")
	c.Add(2.5, "rocket", "b")
	c.Add(0, "boat", "a")
	c.Add(-1, "boat", "a")
	c.Add(math.NaN(), "boat", "a")
	h := r.Histogram("b_seconds", "Times.", []float64{0.1, 1, 10})
	for _, v := range []float64{0.05, 0.1, 0.5, 10, 11, math.NaN()} {
		h.Observe(v)
	}
	value := math.Inf(1)
	r.Gauge("c", "Now.", []string{"of"}, func(set func(float64, ...string)) { set(value, "x"); set(3, "a") })
	r.Gauge("d", "Not known.", nil, func(func(float64, ...string)) {})
	r.Counter("e_total", "Nothing yet.", "x")
	want := `# HELP a_total Some things.\nAnd \\ more.
# TYPE a_total counter
a_total{project="boat",code="a"} 0
a_total{project="rocket",code="b"} 3.5
# HELP b_seconds Times.
# TYPE b_seconds histogram
b_seconds_bucket{le="0.1"} 2
b_seconds_bucket{le="1"} 3
b_seconds_bucket{le="10"} 4
b_seconds_bucket{le="+Inf"} 5
b_seconds_sum 21.65
b_seconds_count 5
# HELP c Now.
# TYPE c gauge
c{of="a"} 3
c{of="x"} +Inf
`
	if got := text(t, r); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	value = 7
	if got := text(t, r); !strings.Contains(got, `c{of="x"} 7`) {
		t.Errorf("a gauge keeps an old value:\n%s", got)
	}
	if got := strings.Join(r.Names(), " "); got != "a_total b_seconds c d e_total" {
		t.Errorf("named %s", got)
	}
}

func TestALabelsValueCannotWriteAMetric(t *testing.T) {
	t.Parallel()
	r := &Registry{}
	c := r.Counter("a_total", "h", "l")
	c.Add(1, "\"} 1\nb_total{l=\"\\")
	c.Add(1, "not\xff\xfeUTF-8")
	c.Add(1, strings.Repeat("x", 10_000))
	got := text(t, r)
	for line := range strings.Lines(got) {
		if !strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "a_total{") {
			t.Errorf("a line of its own: %s", line)
		}
		if len(line) > 1000 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if !strings.Contains(got, `a_total{l="\"} 1\nb_total{l=\"\\"} 1`) {
		t.Error(got)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	t.Parallel()
	r := &Registry{}
	c := r.Counter("a_total", "h", "l", "m")
	for i := range mostSeries + 100 {
		c.Add(1, fmt.Sprint(i), "x")
	}
	c.Add(1, "3", "x") // one that is there goes on
	got := text(t, r)
	if n := strings.Count(got, "\n"); n != mostSeries+1+2 {
		t.Errorf("%d lines", n)
	}
	for _, want := range []string{`a_total{l="other",m="other"} 100`, `a_total{l="3",m="x"} 2`} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}

func TestAMetricThatIsNamedWronglyIsFoundAtTheStart(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(*Registry){
		"no name":             func(r *Registry) { r.Counter("a b_total", "h") },
		"no label":            func(r *Registry) { r.Counter("a_total", "h", "x-y") },
		"the bucket's label":  func(r *Registry) { r.Histogram("a", "h", []float64{1}, "le") },
		"no _total":           func(r *Registry) { r.Counter("a", "h") },
		"twice":               func(r *Registry) { r.Counter("a_total", "h"); r.Counter("a_total", "h") },
		"buckets in disorder": func(r *Registry) { r.Histogram("a", "h", []float64{2, 1}) },
		"too few values":      func(r *Registry) { r.Counter("a_total", "h", "x").Add(1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if recover() == nil {
					t.Error("it was taken")
				}
			}()
			make(&Registry{})
		})
	}
}
