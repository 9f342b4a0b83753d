package answertest

// Jobs that ask: with keys of their own and whatever token the test gives them.

import (
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// Job is a job that waits for a code.
type Job struct {
	Key      nkeys.KeyPair
	HPKE     *seal.Key
	Request  wire.Request
	Envelope wire.Envelope
	Digest   wire.Digest

	// Token gives an ID token with that audience.
	Token func(audience string) (string, error)
	// OnAlive may change what the job signs; false: it does not answer.
	OnAlive func(*wire.Alive) bool

	mu      sync.Mutex
	attempt int
	reason  string
	codes   []string
	got     chan string
}

// NewJob makes a job and its signed request. change may alter the request
// before it is signed.
func NewJob(relay, project string, proof wire.Proof, token func(string) (string, error), change func(*wire.Request)) (*Job, error) {
	key, err := wire.NewConnectKey()
	if err != nil {
		return nil, err
	}
	hpke, err := seal.NewKey()
	if err != nil {
		return nil, err
	}
	now := time.Now().Unix()
	j := &Job{Key: key, HPKE: hpke, Token: token, attempt: 1, reason: wire.ReasonFirst, got: make(chan string, 16)}
	j.Request = wire.Request{
		Key: wire.PublicKey(key), Relay: relay, Project: project, Ask: wire.AskCode, Service: "npm", Format: "digits:6",
		Made: now, Deadline: now + 1800, HPKE: hpke.Public(), Proof: proof,
	}
	if change != nil {
		change(&j.Request)
	}
	if j.Envelope, err = wire.Sign(&j.Request, key); err != nil {
		return nil, err
	}
	j.Digest, err = wire.DigestOf(j.Envelope, j.ID())
	return j, err
}

// githubProof are the claims by which GitHub's jobs are told apart.
var githubProof = []string{"repository_id", "repository_owner_id", "workflow_ref", "sha", "run_id", "run_attempt", "check_run_id"}

// GitHubJob makes a job of a repository (OWNER/NAME) with tokens of a
// development issuer. over replaces claims, as in devissuer.GitHubClaims.
func GitHubJob(issuer *devissuer.Issuer, relay, project, repo string, over map[string]any, change func(*wire.Request)) (*Job, error) {
	claims := devissuer.GitHubClaims(repo, over)
	proof := wire.Proof{"iss": issuer.URL()}
	for _, name := range githubProof {
		if v, ok := claims[name].(string); ok {
			proof[name] = v
		}
	}
	return NewJob(relay, project, proof, func(audience string) (string, error) {
		with := map[string]any{}
		for k, v := range claims {
			with[k] = v
		}
		with["aud"] = audience
		return issuer.Mint(with)
	}, change)
}

// ID is the job's public key, which names its request.
func (j *Job) ID() string { return j.Request.Key }

// At moves the job to an attempt.
func (j *Job) At(attempt int, reason string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.attempt, j.reason = attempt, reason
}

// Alive answers a challenge.
func (j *Job) Alive(ch wire.Challenge) (wire.Envelope, string, error) {
	j.mu.Lock()
	a := wire.Alive{
		Key: j.ID(), Digest: j.Digest, Attempt: j.attempt, Reason: j.reason,
		Nonce: ch.Nonce, Connect: ch.Connect, Responder: ch.Key,
	}
	on := j.OnAlive
	j.mu.Unlock()
	if on != nil && !on(&a) {
		return wire.Envelope{}, "", fmt.Errorf("silent")
	}
	env, err := wire.Sign(&a, j.Key)
	if err != nil {
		return wire.Envelope{}, "", err
	}
	token, err := j.Token(wire.Audience(j.Request.Relay, j.ID()))
	return env, token, err
}

// Receive opens an answer.
func (j *Job) Receive(env wire.Envelope, sealed wire.Sealed) error {
	signer, err := wire.ClaimedSigner(env)
	if err != nil {
		return err
	}
	a, err := wire.Open[wire.Answer](env, signer)
	if err != nil {
		return err
	}
	if a.Digest != j.Digest || a.Sealed != sealed.Hash() {
		return fmt.Errorf("an answer to something else")
	}
	code, err := j.HPKE.Open(sealed, seal.To{Digest: j.Digest, Attempt: a.Attempt, Ask: a.Ask, Responder: signer})
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.codes) == 0 || j.codes[len(j.codes)-1] != code {
		j.codes = append(j.codes, code)
		select {
		case j.got <- code:
		default:
		}
	}
	return nil
}

// Got gives each code that the job could open.
func (j *Job) Got() <-chan string { return j.got }

// Codes are all codes that the job could open.
func (j *Job) Codes() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string{}, j.codes...)
}
