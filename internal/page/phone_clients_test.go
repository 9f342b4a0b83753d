//go:build clients

package page_test

// The phone's page in a real Chromium whose authenticator is a virtual one. What a real
// phone does is not tried here.

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/serviceworker"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// freePort is a port that nobody listens at now.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// authenticator gives the browser a phone's keeping of passkeys.
func (b *browserTab) authenticator() webauthn.AuthenticatorID {
	b.t.Helper()
	calls(b, webauthn.Enable, webauthn.EnableParams{})
	return calls(b, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
		HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
	}}).AuthenticatorID
}

func (b *browserTab) presses(button string) {
	b.t.Helper()
	b.sees(button)
	b.do(chromedp.Click(chromedp.Search(fmt.Sprintf(`//button[text()=%q]`, button))))
}

func TestAPhoneComesInByItsPasskeyAlone(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	s := newScene(t, fmt.Sprintf("ask: [phone]\nphone: {listen: \"127.0.0.1:%d\", name: localhost}\n", port))
	j := s.job(nil, nil)
	s.relay.Ask(j)
	b := newBrowser(t)
	b.do(chromedp.EmulateViewport(360, 740))
	id := b.authenticator()
	at := fmt.Sprintf("http://localhost:%d/", port)

	// Without a passkey there is a door and nothing else.
	b.do(chromedp.Navigate(at))
	b.presses("Use your passkey")
	b.sees("You are not let in: no passkey was given")
	if strings.Contains(b.text(), "electron") {
		t.Errorf("it shows %s", b.text())
	}

	out, err := exec.Command(responder(t), "phone", "add", "pixel", "--socket", s.socket).Output()
	link := strings.TrimSpace(string(out))
	if err != nil || !strings.HasPrefix(link, at+"#") {
		t.Fatalf("phone add: %v %s", err, out)
	}
	b.do(chromedp.Navigate("about:blank"), chromedp.Navigate(link))
	b.picture("phone-add", 360, 740, "dark")
	b.presses("Make a passkey for this phone")
	b.sees("electron/asar wants a code for npm")
	list := s.run("phone", "list", "--socket", s.socket)
	if !strings.HasPrefix(list, "pixel: added ") {
		t.Errorf("phone list: %s", list)
	}
	// The same link again makes nothing.
	again := newBrowser(t)
	again.authenticator()
	again.do(chromedp.Navigate(link))
	again.presses("Make a passkey for this phone")
	again.sees("this link was used already, or is too old")

	// Out, and in again by the passkey: which no page of another name gets.
	b.do(chromedp.Click(chromedp.CSS("#leave")))
	b.sees("You are logged out")
	b.presses("Use your passkey")
	b.sees("electron/asar wants a code for npm")
	b.do(chromedp.Focus(chromedp.CSS("#code")))
	b.types(code + kb.Enter)
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}

	// A human whom the phone does not recognise is not let in.
	b.do(chromedp.Click(chromedp.CSS("#leave")))
	calls(b, webauthn.SetUserVerified, webauthn.SetUserVerifiedParams{AuthenticatorID: id, IsUserVerified: false})
	b.presses("Use your passkey")
	b.sees("You are not let in: no passkey was given")
	calls(b, webauthn.SetUserVerified, webauthn.SetUserVerifiedParams{AuthenticatorID: id, IsUserVerified: true})
	b.presses("Use your passkey")
	b.has(`document.getElementById('room')?.hidden === false`)

	// Lost: out at once, and for good.
	s.run("phone", "remove", "pixel", "--socket", s.socket)
	b.sees("Use your passkey")
	b.presses("Use your passkey")
	b.sees("this passkey is not one of this responder's")
	if list := s.run("phone", "list", "--socket", s.socket); list != "no phone has a passkey\n" {
		t.Errorf("phone list: %s", list)
	}
	b.quiet()
}

func TestAnInstalledPageRingsAndSaysNothing(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	s := newScene(t, fmt.Sprintf("ask: [phone]\nphone: {listen: \"127.0.0.1:%d\", name: localhost}\n", port))
	b := newBrowser(t)
	b.authenticator()
	origin := fmt.Sprintf("http://localhost:%d", port)
	calls(b, browser.SetPermission, browser.SetPermissionParams{Origin: origin, Permission: &browser.PermissionDescriptor{Name: "notifications"}, Setting: browser.PermissionSettingGranted})
	out, err := exec.Command(responder(t), "phone", "add", "pixel", "--socket", s.socket).Output()
	if err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate(strings.TrimSpace(string(out))))
	b.presses("Make a passkey for this phone")
	b.has(`document.getElementById('room')?.hidden === false`)
	b.has(`navigator.serviceWorker.ready.then((r) => r.active.state === 'activated')`)
	var manifest struct {
		Display string
		Start   string `json:"start_url"`
	}
	b.eval(`fetch(document.querySelector('link[rel=manifest]').href).then((r) => r.json())`, &manifest)
	if manifest.Display != "standalone" || manifest.Start != "/" {
		t.Errorf("the manifest is %+v", manifest)
	}
	// What a push service hands to the browser, whatever is in it.
	registration := make(chan serviceworker.RegistrationID, 8)
	err = chromedp.Listen(b.ctx, func(e any) {
		if e, ok := e.(*serviceworker.EventWorkerRegistrationUpdated); ok {
			for _, r := range e.Registrations {
				select {
				case registration <- r.RegistrationID:
				default:
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	calls(b, serviceworker.Enable, cdp.Empty{})
	calls(b, serviceworker.DeliverPushMessage, serviceworker.DeliverPushMessageParams{Origin: origin, RegistrationID: <-registration, Data: "electron/asar wants a code"})
	var rung []string
	waits(t, func() bool {
		b.eval(`navigator.serviceWorker.ready.then((r) => r.getNotifications()).then((all) => all.map((n) => n.title + '|' + n.body))`, &rung)
		return len(rung) > 0
	})
	if len(rung) != 1 || rung[0] != "Something waits|Open it to see what asks." {
		t.Errorf("it rings with %q", rung)
	}
	b.quiet()
}

func TestAPhoneIsNotServedFromTheRelaysHost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newScene(t, "ask: []\n")
	file := filepath.Join(dir, "responder.yaml")
	write(t, file, "relays: [{url: \"tls://relay.example:4222\"}]\nask: [phone]\nphone: {listen: \"127.0.0.1:8443\", name: relay.example, cert: a, key: b}\n")
	out, err := exec.Command(responder(t), "run", "--settings", file, "--key-file", filepath.Join(s.dir, "responder.key"), "--pins", filepath.Join(s.dir, "pins.yaml"), "--socket", filepath.Join(s.dir, "s2")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "relay.example is the relay's host, too") {
		t.Errorf("%v %s", err, out)
	}
}
