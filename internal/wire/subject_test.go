package wire

// Subjects: who speaks, and where a reply may go.

import (
	"strings"
	"testing"
)

func TestASubjectSaysWhoseItIsOrNothing(t *testing.T) {
	t.Parallel()
	key, sign := PublicKey(jobKey), PublicKey(signKey)
	for _, verb := range []string{VerbRequest, VerbState, VerbAlive, VerbGot, VerbRejected, VerbNext, VerbDone, VerbCancel} {
		if desk, k, v, ok := ParseSubject(JobSubject(key, verb)); desk || k != key || v != verb || !ok {
			t.Errorf("job's %s: %v %q %q %v", verb, desk, k, v, ok)
		}
	}
	for _, verb := range []string{VerbPending, VerbOpen, VerbAnswer, VerbDecline, VerbAway, VerbJoin, VerbRotate} {
		if desk, k, v, ok := ParseSubject(DeskSubject(key, verb)); !desk || k != key || v != verb || !ok {
			t.Errorf("desk's %s: %v %q %q %v", verb, desk, k, v, ok)
		}
	}
	for _, bad := range []string{
		"", "cfa.v1.job", "cfa.v1.job." + key, "cfa.v1.job." + key + ".got.more", "cfa.v1.job." + key + ".got.", "cfa.v1.job..got", "cfa.v1.job.*.got",
		"cfa.v1.job.>", "cfa.v1.>", "cfa.v1.job." + sign + ".got", "cfa.v1.desk." + sign + ".answer", "cfa.v1.hint.widgets", "cfa.v1.hint." + key + ".got",
		"cfa.v2.job." + key + ".got", "CFA.v1.job." + key + ".got", "cfa.v1.Job." + key + ".got", "cfa.v1.job." + strings.ToLower(key) + ".got",
		" cfa.v1.job." + key + ".got", "x.cfa.v1.job." + key + ".got", "cfa.v1.job." + key + "\n.got", "cfa.v1..job." + key + ".got", "_INBOX_" + key + ".x",
	} {
		if _, k, v, ok := ParseSubject(bad); ok || k != "" || v != "" {
			t.Errorf("%q passes as key %q, verb %q", bad, k, v)
		}
	}
}

func TestARelayRepliesOnlyIntoTheAskersOwnInbox(t *testing.T) {
	t.Parallel()
	key, other := PublicKey(jobKey), PublicKey(otherJob)
	for _, good := range []string{InboxPrefix(key) + ".a", InboxPrefix(key) + ".x1Yz.AbC", InboxPrefix(key) + ".hints", InboxPrefix(key) + ".a.hint"} {
		if !OwnReply(key, good) {
			t.Errorf("%q is refused", good)
		}
	}
	for name, bad := range map[string]string{
		"no reply subject":               "",
		"another's inbox":                InboxPrefix(other) + ".a",
		"another's, own key further on":  InboxPrefix(other) + "." + InboxPrefix(key) + ".a",
		"the default inbox":              "_INBOX.abc.def",
		"the prefix alone":               InboxPrefix(key),
		"the prefix and a dot":           InboxPrefix(key) + ".",
		"the prefix without a dot":       InboxPrefix(key) + "X.a",
		"the prefix cut":                 InboxPrefix(key[:55]) + ".a",
		"the hint subject":               HintSubject(key),
		"below the hint subject":         HintSubject(key) + ".a",
		"another's hint subject":         HintSubject(other),
		"a wildcard":                     InboxPrefix(key) + ".*",
		"a wildcard at the end":          InboxPrefix(key) + ".a.>",
		"a wildcard instead of all":      ">",
		"a job's subject":                JobSubject(key, VerbGot),
		"a project's hints":              ProjectSubject("widgets"),
		"the system account":             "$SYS.REQ.SERVER.PING",
		"JetStream":                      "$JS.API.STREAM.DELETE.CFA",
		"a space":                        InboxPrefix(key) + ".a b",
		"a tab":                          InboxPrefix(key) + ".a\tb",
		"a line break, then a command":   InboxPrefix(key) + ".a\r\nPUB x 0",
		"other case":                     strings.ToLower(InboxPrefix(key)) + ".a",
		"the prefix after something":     "x" + InboxPrefix(key) + ".a",
		"the prefix behind another name": "a." + InboxPrefix(key) + ".a",
	} {
		if OwnReply(key, bad) {
			t.Errorf("%s: the relay would reply to %q", name, bad)
		}
	}
}

func TestTheAudienceIsReadableAndNamesRelayAndKey(t *testing.T) {
	t.Parallel()
	key := PublicKey(jobKey)
	if got, want := Audience("relay.example.com", key), "cfa:v1:relay.example.com:"+key; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := UnboundAudience("relay.example.com"), "cfa:v1:relay.example.com"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// A relay whose name held a colon could take a bound audience for its own
	// unbound one; CheckRelayName is what keeps the two apart.
	if CheckRelayName("relay.example.com:"+strings.ToLower(key)) == nil {
		t.Error("a relay's name can hold a colon")
	}
}

func TestNamesOfRelaysAndProjectsAreNarrow(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"relay.example.com", "r", "10.0.0.1", "a-b", strings.Repeat("r", 253)} {
		if err := CheckRelayName(good); err != nil {
			t.Errorf("relay %q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "Relay", "relay:4222", "relay/x", "rel ay", "relay\n", "rélay", "_relay", strings.Repeat("r", 254)} {
		if CheckRelayName(bad) == nil {
			t.Errorf("relay %q passes", bad)
		}
	}
	for _, good := range []string{"widgets", "w", "0", "a_b-c", strings.Repeat("p", 63)} {
		if err := CheckProject(good); err != nil {
			t.Errorf("project %q: %v", good, err)
		}
	}
	// A dot, a wildcard or white space would change the subject of its hints.
	for _, bad := range []string{"", "Widgets", "a.b", "*", ">", "a*", "a b", "-a", "_a", "a\n", "ä", strings.Repeat("p", 64)} {
		if CheckProject(bad) == nil {
			t.Errorf("project %q passes", bad)
		}
	}
}

func FuzzParseSubject(f *testing.F) {
	key := PublicKey(jobKey)
	seed(f, func(s string) { f.Add(s) }, []string{
		JobSubject(key, VerbGot), DeskSubject(key, VerbAnswer), "cfa.v1.job.*.>", "cfa.v1.job." + key + "..", ProjectSubject("x"), "", HintSubject(key), "cfa.v1.job." + key + "\n.got",
	})
	f.Fuzz(func(t *testing.T, subject string) {
		desk, key, verb, ok := ParseSubject(subject)
		if !ok {
			return
		}
		again := JobSubject(key, verb)
		if desk {
			again = DeskSubject(key, verb)
		}
		if again != subject || CheckConnectKey(key) != nil || strings.ContainsRune(verb, '.') {
			t.Fatalf("%q parsed as %v %q %q", subject, desk, key, verb)
		}
	})
}

func FuzzOwnReply(f *testing.F) {
	key := PublicKey(jobKey)
	seed(f, func(s string) { f.Add(s) }, []string{
		InboxPrefix(key) + ".a", HintSubject(key), InboxPrefix(PublicKey(otherJob)) + ".a", InboxPrefix(key) + ".*", "", InboxPrefix(key) + ".", ">",
	})
	f.Fuzz(func(t *testing.T, reply string) {
		if !OwnReply(key, reply) {
			return
		}
		parts := strings.Split(reply, ".")
		if parts[0] != "_INBOX_"+key || len(parts) < 2 || parts[1] == "hint" || strings.ContainsAny(reply, "*> \t\r\n") {
			t.Fatalf("would reply to %q", reply)
		}
	})
}
