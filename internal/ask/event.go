package ask

// What a reader of the job's log needs to know, as it happens. All text in
// events is clean (see [wire.Clean]) and bounded.

import "time"

// Event is one of the types below.
type Event interface{ event() }

// Trying says that a connect failed and will be tried again.
type Trying struct {
	Try  int // 1 for the first that failed
	Why  string
	Wait time.Duration // until the next
}

// Connected says that the relay let this job connect.
type Connected struct {
	Relay string // its name
	Again bool   // after a lost connection
}

// Accepted says that the relay took the request. It comes once.
type Accepted struct {
	Project string
	ID      string // the request's name
	// Match is the match code: the human's prompt must show the same.
	Match    string
	OnCall   []string // names; empty where the relay hides them
	Ready    int      // how many responders are connected
	Enrolled int      // how many could answer
	Left     time.Duration
	Away     []Absent // who could answer, and is not to be asked
}

// Absent is a responder that is away.
type Absent struct {
	Who   string    // [wire.SomeResponder] where the relay hides names
	Until time.Time // zero: the relay's word for it is none
}

// OnCall says that so many are on call as the request needs, or no longer, or that
// an absence has begun or ended.
type OnCall struct {
	OnCall          []string
	Ready, Enrolled int
	Need            int // people who must still answer
	Away            []Absent
}

// Escalated says that nobody has answered for some time, and that others are
// asked too.
type Escalated struct {
	After time.Duration
	Then  []string // names; empty where the relay hides them
	// Early: before that time, because too few of those before them can answer.
	Early bool
	Away  []Absent
}

// Opened says that a responder shows the prompt. It does so by itself when the
// prompt arrives, so that nobody need have seen it, and with an answer command
// nobody will.
type Opened struct{ Who string } // whose; [wire.SomeResponder] where the relay hides names

// Shown says that a responder was shown that this job runs, and what its human is
// to follow: it has signed that it opens the request. It comes once for each, and
// for a link only, which nobody answers.
type Shown struct{ Responder string } // verified signing key

// Changed says that the relay tells of another state: pending, answered,
// delivered.
type Changed struct {
	State string
	By    string // who; "" if hidden
}

// NewAttempt says that an answer is needed once more.
type NewAttempt struct {
	Attempt int
	Reason  string // wire.ReasonRejected, ReasonUndelivered or ReasonNext
}

// Agreed says that the first of two people has agreed, and that another is asked
// for the code.
type Agreed struct{ Responder string } // verified signing key

// Taken says that an answer was accepted.
type Taken struct {
	Responder string // verified signing key
	Attempt   int
}

// Named says whose the answer in hand is, as the relay has it; where it hides names
// this never comes.
type Named struct{ Who string }

// Reconnecting says that the connection was lost.
type Reconnecting struct{}

// Waiting comes at least every 30 s while nothing is in hand.
type Waiting struct {
	Left     time.Duration
	Accepted bool // false: still trying to ask
}

// Dropped says that the relay passed on something that does not count.
type Dropped struct{ What string }

// Warning is something that a careful reader should know.
type Warning struct{ What string }

func (Trying) event()       {}
func (Connected) event()    {}
func (Accepted) event()     {}
func (OnCall) event()       {}
func (Escalated) event()    {}
func (Opened) event()       {}
func (Shown) event()        {}
func (Changed) event()      {}
func (NewAttempt) event()   {}
func (Agreed) event()       {}
func (Taken) event()        {}
func (Named) event()        {}
func (Reconnecting) event() {}
func (Waiting) event()      {}
func (Dropped) event()      {}
func (Warning) event()      {}
