package main

// Whatever stands in a file or a prompt: it is read one way or refused, and no
// control character comes out.

import (
	"bytes"
	"testing"
	"time"
	"unicode"

	"github.com/continuousauth/action/internal/answer"
)

func FuzzPinsFile(f *testing.F) {
	for _, seed := range []string{
		"",
		"pins:\n  asar:\n    - provider: github\n      repository_id: \"1\"\n      repository_owner_id: \"2\"\n      repository: a/b\n",
		"pins:\n  asar:\n    - provider: github\n      repository_id: [1, 2]\n      repository_owner_id: 3\n      ref: {pattern: 'refs/tags/v[0-9]+'}\n      allow: [self-hosted]\n",
		"issuers:\n  - {name: ghes, provider: github, url: https://github.example.com/_services/token}\npins: {}\n",
		"pins:\n  asar:\n    - {provider: github, repository_id: \"1\", repository_owner_id: \"2\"}\nlinks:\n  asar: [a.example, b.example:8443]\n",
		"pins: &a\n  asar: *a\n",
		"pins: {}\n---\npins: {}\n",
		"pins:\n  gem:\n    - provider: circleci\n      org-id: c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e\n      project-id: x\n      ssh-rerun: true\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parsePins(data)
		if err != nil {
			return
		}
		if _, err := file.compile(nil); err != nil {
			return
		}
		once, err := file.encode()
		if err != nil {
			t.Fatalf("pins that were read cannot be written: %v", err)
		}
		back, err := parsePins(once)
		if err != nil {
			t.Fatalf("pins that were written cannot be read: %v\n%s", err, once)
		}
		if _, err := back.compile(nil); err != nil {
			t.Fatalf("pins that were written do not compile: %v\n%s", err, once)
		}
		twice, err := back.encode()
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("written twice, pins differ (%v):\n%s\n%s", err, once, twice)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	k, err := newKeys()
	if err != nil {
		f.Fatal(err)
	}
	seed, err := encodeKeys(k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(bytes.ReplaceAll(seed, []byte("sign"), []byte("connect")))
	f.Add(bytes.ReplaceAll(seed, []byte("\n"), []byte("\r\n")))
	f.Add([]byte("connect: secret\nsign: secret\n"))
	f.Add([]byte("# nothing\n"))
	f.Add(encodeElsewhere(inKeyring, k.public(), nil))
	f.Add(encodeElsewhere(inFile, k.public(), []byte("-----BEGIN AGE ENCRYPTED FILE-----\nx\n-----END AGE ENCRYPTED FILE-----\n")))
	f.Add(append(encodeElsewhere(inKeyring, k.public(), nil), seed...))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, ok := parseKeyFile(data)
		if !ok {
			return
		}
		write := func(k kept) []byte {
			if k.form != inPlain {
				return encodeElsewhere(k.form, k.public, k.sealed)
			}
			data, err := encodeKeys(k.keys)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		once := write(k)
		back, ok := parseKeyFile(once)
		if !ok || back.form != k.form || back.public != k.public {
			t.Fatal("keys that were kept cannot be read")
		}
		if !bytes.Equal(once, write(back)) {
			t.Fatal("kept twice, the keys differ")
		}
		if _, plain := parsePlain(data); plain != (k.form == inPlain) {
			t.Fatal("a file that says where keys are was taken for the keys")
		}
	})
}

// FuzzWhatIsWritten puts raw text where the desk would put cleaned text.
func FuzzWhatIsWritten(f *testing.F) {
	f.Add(hostile, hostile, false)
	f.Add("plain", "two\nlines", true)
	f.Add("\xff\xfe", "", true)
	f.Fuzz(func(t *testing.T, a, b string, plain bool) {
		var out bytes.Buffer
		windows := &desktop{now: time.Now}
		s := stream{out: &out}
		tell := teller{write: s.write, plain: plain, now: time.Now}
		for _, standing := range []answer.Standing{answer.Unopened, answer.Foreign, answer.Verified} {
			p := answer.Prompt{ID: "x", Number: 1, Phase: answer.Asking, Standing: standing, Why: a, Note: b, Project: a, Message: b, Match: a, Service: b, Format: a}
			p.Ask, p.Artifacts, p.Details, p.LinkHost, p.Link = b, []answer.Artifact{{Name: a, SHA256: b, Package: b, Version: a, Stage: a}}, a, b, a
			p.Facts = answer.Facts{Repository: a, Workflow: b, WorkflowFile: a, Ref: b, SHA: a, Environment: b, Event: a, Actor: b, RunURL: a}
			tell.news(p)
			tell.summary(p)
			tell.more(p)
			w := describePage(p, time.Now())
			out.WriteString(w.Sentence + "\n")
			for _, row := range w.Rows {
				out.WriteString(row[1] + "\n")
			}
			out.WriteString(windows.factsOf(p, nil))
			n := noticeOf(p, time.Now())
			out.WriteString(n.title + n.body)
		}
		out.WriteString(fieldText(a, b))
		tell.news(answer.Prompt{ID: "x", Number: 1, Phase: answer.Over, Why: b})
		for _, r := range out.String() {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Fatalf("%U was written", r)
			}
		}
	})
}
