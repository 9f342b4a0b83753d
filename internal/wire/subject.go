package wire

// Subjects. A client publishes only below its own key and listens only on its
// own inbox (and, a responder, on its projects' hints); the relay grants exactly
// that when the client connects.

import "strings"

// The verbs of a job and of a responder.
const (
	VerbRequest  = "request"
	VerbState    = "state"
	VerbAlive    = "alive"
	VerbGot      = "got"
	VerbRejected = "rejected"
	VerbNext     = "next"
	VerbDone     = "done"
	VerbCancel   = "cancel"

	VerbPending = "pending"
	VerbOpen    = "open"
	VerbAnswer  = "answer"
	VerbDecline = "decline"
	VerbAway    = "away"
	VerbJoin    = "join"
	VerbRotate  = "rotate"
)

// JobSubject is cfa.v1.job.<key>.<verb>.
func JobSubject(key, verb string) string { return "cfa.v1.job." + key + "." + verb }

// DeskSubject is cfa.v1.desk.<connecting key>.<verb>.
func DeskSubject(key, verb string) string { return "cfa.v1.desk." + key + "." + verb }

// InboxPrefix is the prefix of all that key may listen on, and of each reply
// subject that the relay will use for it.
func InboxPrefix(key string) string { return "_INBOX_" + key }

// HintSubject is where the relay pushes hints to key.
func HintSubject(key string) string { return InboxPrefix(key) + ".hint" }

// ProjectSubject is where the relay says that something changed in a project.
func ProjectSubject(project string) string { return "cfa.v1.hint." + project }

// ParseSubject takes a job's or desk's subject apart: whose key, which verb.
func ParseSubject(subject string) (desk bool, key, verb string, ok bool) {
	rest, ok := strings.CutPrefix(subject, "cfa.v1.")
	if !ok {
		return false, "", "", false
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 3 || parts[0] != "job" && parts[0] != "desk" || CheckConnectKey(parts[1]) != nil {
		return false, "", "", false
	}
	return parts[0] == "desk", parts[1], parts[2], true
}

// OwnReply says whether reply lies in key's own inbox. NATS does not check the
// reply subject of a message against its sender's permissions: a job once made
// a relay write into another's inbox.
func OwnReply(key, reply string) bool {
	rest, ok := strings.CutPrefix(reply, InboxPrefix(key)+".")
	// The hint subject is the relay's own voice and never a place for replies.
	return ok && rest != "" && rest != "hint" && !strings.HasPrefix(rest, "hint.") && !strings.ContainsAny(rest, "*> \t\r\n")
}

// Audience is the audience of an ID token that speaks for key at a relay:
// cfa:v1:<relay name>:<key>. Nothing is hashed, so that a person can read in a
// decoded token what it is good for.
func Audience(relay, key string) string { return "cfa:v1:" + relay + ":" + key }

// UnboundAudience is the audience for a CI that cannot choose one at run time;
// it names no key.
func UnboundAudience(relay string) string { return "cfa:v1:" + relay }
