package broker

// Servers in operator mode: accounts and users are statements (JWTs) that an
// operator's keys have signed, and the callout belongs to an account, whose
// statement says who answers it. Clients know nothing of that: they bring no
// JWT, and the server gives them that of `default_sentinel`, a user of the
// callout's account who may do nothing, so that the callout is asked about them
// as everywhere else.
//
// What differs is who signs: users are placed by the account that their
// statement is signed for, with a key of its own. And whoever starts a relay can
// read the accounts' statements, so what does not fit is said then. Later it
// would be silence: the server tells its own log alone why it does not take an
// answer, and an encrypted answer's signature it does not look at (2.15.2).

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// operator says whether the servers are in operator mode, where accounts are
// named by their keys.
func (n *NATS) operator() bool { return nkeys.IsValidPublicAccountKey(n.Account) }

func modeOf(account string) string {
	if nkeys.IsValidPublicAccountKey(account) {
		return "operator"
	}
	return "config"
}

// natsFiles are what the files of `nats` hold.
type natsFiles struct {
	issuer, users *signer // one and the same in config mode
	xkey          nkeys.KeyPair
	auth          map[string]nats.Option // of each of the relay's users
}

// read reads the files, for `check` and for the start alike, and compares what
// can be compared without a server.
func (n *NATS) read() (*natsFiles, error) {
	f := &natsFiles{auth: map[string]nats.Option{}}
	kp, err := seedFile("nats.issuer", n.Issuer, nkeys.PrefixByteAccount)
	if err != nil {
		return nil, err
	}
	if f.issuer, err = newSigner(kp); err != nil {
		return nil, err
	}
	f.users = f.issuer
	if n.operator() {
		if kp, err = seedFile("nats.user-issuer", n.UserIssuer, nkeys.PrefixByteAccount); err != nil {
			return nil, err
		}
		if f.users, err = newSigner(kp); err != nil {
			return nil, err
		}
	}
	if n.XKey != "" {
		if f.xkey, err = seedFile("nats.xkey", n.XKey, nkeys.PrefixByteCurve); err != nil {
			return nil, err
		}
	}
	of := map[string]string{} // who is a user of an account
	for _, u := range []struct {
		name string
		cred Credential
	}{{"nats.system", n.System}, {"nats.callout", n.Callout}, {"nats.client", n.Client}, {"nats.store", n.Store}} {
		name := strings.TrimPrefix(u.name, "nats.")
		if !n.operator() {
			if f.auth[name], err = u.cred.nkey(u.name); err != nil {
				return nil, err
			}
			continue
		}
		claims, err := credsFile(u.name+".creds", u.cred.Creds)
		if err != nil {
			return nil, err
		}
		account := accountOf(claims)
		if other, twice := of[account]; twice {
			return nil, fmt.Errorf("%s and %s are both users of the account %s; each needs one of its own", other, u.name, account)
		}
		of[account] = u.name
		switch {
		case name == "client" && account != n.Account:
			return nil, fmt.Errorf("nats.client.creds: is a user of the account %s, but jobs and responders are placed in %s (nats.account)", account, n.Account)
		case name == "client" && f.users.public == account:
			return nil, needsSigningKey("nats.user-issuer", account)
		case name == "callout" && f.issuer.public == account:
			return nil, needsSigningKey("nats.issuer", account)
		}
		// By its file, which is read again at each reconnect: users expire.
		f.auth[name] = nats.UserCredentials(u.cred.Creds)
	}
	return f, nil
}

// needsSigningKey refuses an account's own key. Strict operators' servers do not
// take it, and it cannot be replaced when a relay's machine is lost.
func needsSigningKey(what, account string) error {
	return fmt.Errorf("%s: is the key of the account %s itself; give a signing key of the account: nsc edit account --sk generate", what, account)
}

// nkey is how a user without a JWT connects.
func (c Credential) nkey(what string) (nats.Option, error) {
	kp, err := seedFile(what+".nkey", c.NKey, nkeys.PrefixByteUser)
	if err != nil {
		return nil, err
	}
	pub, err := kp.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("%s.nkey: %w", what, err)
	}
	return nats.Nkey(pub, kp.Sign), nil
}

// credsFile checks that a credentials file is one, and gives what its JWT says.
func credsFile(what, path string) (*jwt.UserClaims, error) {
	if err := private(what, path, 0o077); err != nil {
		return nil, err
	}
	data, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer clear(data)
	// None of the library's errors: they may quote what they could not read.
	no := fmt.Errorf("%s: %s is no credentials file with a user's JWT and seed; make it with: nsc generate creds", what, path)
	token, err := jwt.ParseDecoratedJWT(data)
	if err != nil {
		return nil, no
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return nil, no
	}
	kp, err := jwt.ParseDecoratedUserNKey(data)
	if err != nil {
		return nil, no
	}
	defer kp.Wipe()
	if pub, err := kp.PublicKey(); err != nil || pub != claims.Subject {
		return nil, fmt.Errorf("%s: the JWT in %s is of the user %s, and the seed is another's; make it anew with: nsc generate creds", what, path, claims.Subject)
	}
	if at := time.Unix(claims.Expires, 0); claims.Expires != 0 && !at.After(time.Now()) {
		return nil, fmt.Errorf("%s: the user %s in %s has expired at %s; make a new JWT (nsc edit user --expiry), and the file with it: nsc generate creds", what, claims.Subject, path, at.UTC().Format(time.RFC3339))
	}
	return claims, nil
}

// accountOf is the account that a user belongs to, whichever of its keys signed.
func accountOf(c *jwt.UserClaims) string {
	if c.IssuerAccount != "" {
		return c.IssuerAccount
	}
	return c.Issuer
}

// hint is what a connection's refusal, which carries no reason, often comes from.
func (n *NATS) hint(user string, err error) string {
	// A user whom the server does not know is one that it asks the callout about.
	// As long as no relay answers, the first PING comes before the refusal, and
	// the client library takes it for the end.
	unanswered := strings.Contains(err.Error(), "expected 'PONG', got 'PING'")
	switch {
	case !errors.Is(err, nats.ErrAuthorization) && !unanswered:
		return ""
	case n.operator() && user == "callout":
		return "; does the JWT that the server has of this user's account list the user (nsc edit authcallout --auth-user), and has it been pushed?"
	case n.operator():
		return "; is the server in operator mode, and does it have this user's account (nsc push)?"
	}
	return "; is the user one of auth_callout.auth_users and of its account's users there, and is the server in config mode?"
}

// place says in a user's statement which account it is placed in: there its
// name is the audience, here the account is whom the user's signer signs for.
func (n *network) place(user *jwt.UserClaims) {
	if n.asked == "" {
		user.Audience = n.account
		return
	}
	user.IssuerAccount = n.account
}

// checkClaims compares what the server has of the callout's account, and of the
// account that clients are placed in, with this relay's keys.
func (n *network) checkClaims(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	asked, err := n.claimsOf(ctx, n.callout, n.asked)
	if err != nil {
		return fmt.Errorf("the account of nats.callout: %w", err)
	}
	placed, err := n.claimsOf(ctx, n.client, n.account)
	if err != nil {
		return fmt.Errorf("the account of nats.client: %w", err)
	}
	issuer, err := n.issuer.PublicKey()
	if err != nil {
		return err
	}
	users, err := n.users.PublicKey()
	if err != nil {
		return err
	}
	xkey, err := n.xkey.PublicKey()
	if err != nil {
		return err
	}
	if err := checkAsked(asked, issuer, xkey, n.account); err != nil {
		return err
	}
	return checkPlaced(placed, users)
}

// checkAsked says what keeps a callout in this account from working, or from
// being the only way in.
func checkAsked(c *jwt.AccountClaims, issuer, xkey, clients string) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("nats.callout's account %s %s, then: nsc push", called(c), fmt.Sprintf(format, args...))
	}
	auth := c.Authorization
	switch {
	case !auth.IsEnabled():
		return wrong("asks no callout, so whoever comes without a JWT would be let into it; run: nsc edit authcallout --auth-user (nats.callout's user) --allowed-account %s --curve %s", clients, xkey)
	case auth.XKey == "":
		return wrong("does not encrypt the callout; run: nsc edit authcallout --curve %s", xkey)
	case auth.XKey != xkey:
		return wrong("encrypts the callout to %s, but the seed in nats.xkey is that of %s; give the relay the other seed, or run: nsc edit authcallout --curve %s", auth.XKey, xkey, xkey)
	case !slices.Equal(auth.AllowedAccounts, []string{clients}):
		// A key that the relay loses must not place users anywhere else.
		return wrong("lets the callout place users in [%s]; it must be nats.account alone, so that no mistake and no lost key of the relay reaches another; run: nsc edit authcallout --allowed-account %s, and --rm-allowed-account for each other one", wire.Clean(strings.Join(auth.AllowedAccounts, " "), 400), clients)
	case c.Limits.DisallowBearer:
		return wrong("takes no bearer JWT, but default_sentinel is one; run: nsc edit account --disallow-bearer=false")
	}
	if _, ok := c.SigningKeys[issuer]; !ok {
		return wrong("does not have the key %s of nats.issuer among its signing keys; give the relay the seed of one of [%s], or run: nsc edit account --sk %s", issuer, wire.Clean(strings.Join(slices.Sorted(maps.Keys(c.SigningKeys)), " "), 400), issuer)
	}
	return nil
}

// checkPlaced says what keeps users from being placed in this account, or gives
// them more than the relay does.
func checkPlaced(c *jwt.AccountClaims, users string) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("nats.client's account %s %s, then: nsc push", called(c), fmt.Sprintf(format, args...))
	}
	scope, ok := c.SigningKeys[users]
	switch {
	case !ok:
		return wrong("does not have the key %s of nats.user-issuer among its signing keys, so the server would take nobody; give the relay the seed of one of [%s], or run: nsc edit account --sk %s", users, wire.Clean(strings.Join(slices.Sorted(maps.Keys(c.SigningKeys)), " "), 400), users)
	case scope != nil:
		return wrong("has the key %s of nats.user-issuer with a role, whose permissions the server would put in the place of each client's own; use a plain signing key: nsc edit account --sk generate", users)
	// The server does not apply the limits that the callout gives a user.
	case c.Limits.Payload != wire.MaxMessage || c.Limits.Subs != clientSubscriptions:
		return wrong("limits messages to %d bytes and a connection to %d subscriptions, in the place of %d and %d; run: nsc edit account --payload %d --subscriptions %d",
			c.Limits.Payload, c.Limits.Subs, wire.MaxMessage, clientSubscriptions, wire.MaxMessage, clientSubscriptions)
	case c.Limits.IsJSEnabled():
		return wrong("has JetStream, which jobs and responders have no use for; run: nsc edit account --js-disable")
	case c.Authorization.IsEnabled():
		return wrong("asks a callout itself; only that of nats.callout may; run: nsc edit authcallout --disable")
	}
	return nil
}

// called is an account by its key and the name that its owner gave it.
func called(c *jwt.AccountClaims) string {
	return fmt.Sprintf("%s (%s)", c.Subject, wire.CleanName(c.Name, 60))
}

// claimsOf asks the server that conn is connected to, which certainly knows
// conn's account: others of a cluster load one when its first user comes.
func (n *network) claimsOf(ctx context.Context, conn *nats.Conn, account string) (*jwt.AccountClaims, error) {
	query, err := json.Marshal(map[string]string{"account": account})
	if err != nil {
		return nil, err
	}
	m, err := n.system.RequestWithContext(ctx, "$SYS.REQ.SERVER."+conn.ConnectedServerId()+".ACCOUNTZ", query)
	if err != nil {
		return nil, fmt.Errorf("what its JWT says cannot be learnt from the server: %w", err)
	}
	var reply struct {
		Data struct {
			Account struct {
				JWT string `json:"jwt"`
			} `json:"account_detail"`
		} `json:"data"`
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return nil, fmt.Errorf("what its JWT says cannot be learnt from the server: %w", err)
	}
	claims, err := jwt.DecodeAccountClaims(reply.Data.Account.JWT)
	if err != nil {
		return nil, errors.New("the server has no JWT of it; is it in operator mode?")
	}
	return claims, nil
}
