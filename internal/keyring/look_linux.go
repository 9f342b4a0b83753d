package keyring

// What the Secret Service says of itself before anybody is asked.

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	secrets     = "org.freedesktop.secrets"
	secretsPath = dbus.ObjectPath("/org/freedesktop/secrets")
	loginPath   = dbus.ObjectPath("/org/freedesktop/secrets/collection/login")

	// lookWithin is how long the bus may take: it starts the keyring's daemon for
	// this, if that does not run.
	lookWithin = 20 * time.Second
)

// Look says whether the keyring could be used now without asking anybody: nil,
// ErrLocked or ErrNone.
func Look(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, lookWithin)
	defer stop()
	// Never a bus of our own making: it would be nobody's session, with an empty
	// keyring in it, and stay behind.
	conn, err := dbus.SessionBusPrivateNoAutoStartup(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("%w: this session has no D-Bus", ErrNone)
	}
	defer conn.Close()
	if conn.Auth(nil) != nil || conn.Hello() != nil {
		return fmt.Errorf("%w: this session's D-Bus does not answer", ErrNone)
	}
	bus := conn.BusObject()
	var running bool
	var startable []string
	if err := bus.CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, secrets).Store(&running); err != nil {
		return fmt.Errorf("%w: this session's D-Bus does not answer", ErrNone)
	}
	if !running {
		if err := bus.CallWithContext(ctx, "org.freedesktop.DBus.ListActivatableNames", 0).Store(&startable); err != nil || !slices.Contains(startable, secrets) {
			return fmt.Errorf("%w: nothing offers one in this session (GNOME Keyring, KWallet and KeePassXC do)", ErrNone)
		}
	}
	collection, err := collectionOf(ctx, conn)
	if err != nil {
		return err
	}
	var locked dbus.Variant
	err = conn.Object(secrets, collection).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, "org.freedesktop.Secret.Collection", "Locked").Store(&locked)
	if is, ok := locked.Value().(bool); err != nil || !ok {
		return fmt.Errorf("%w: the one of this session does not say whether it is locked", ErrNone)
	} else if is {
		return ErrLocked
	}
	return nil
}

// collectionOf is where the library would put a secret: the collection called
// login, or else the default one.
func collectionOf(ctx context.Context, conn *dbus.Conn) (dbus.ObjectPath, error) {
	service := conn.Object(secrets, secretsPath)
	var all dbus.Variant
	if err := service.CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, "org.freedesktop.Secret.Service", "Collections").Store(&all); err != nil {
		return "", fmt.Errorf("%w: the one of this session does not start, or does not answer", ErrNone)
	}
	if paths, _ := all.Value().([]dbus.ObjectPath); slices.Contains(paths, loginPath) {
		return loginPath, nil
	}
	var chosen dbus.ObjectPath
	if err := service.CallWithContext(ctx, "org.freedesktop.Secret.Service.ReadAlias", 0, "default").Store(&chosen); err != nil || chosen == "/" {
		// The library cannot make a collection, and fails without a reason.
		return "", fmt.Errorf("%w: the one of this session has no collection yet (a login by password makes one, and so does Seahorse)", ErrNone)
	}
	return chosen, nil
}
