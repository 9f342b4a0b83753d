package wire

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/nats-io/nkeys"
)

func TestAStatementIsItsSignersAndOfItsKind(t *testing.T) {
	t.Parallel()
	kp, err := nkeys.CreateOperator()
	if err != nil {
		t.Fatal(err)
	}
	other, err := nkeys.CreateOperator()
	if err != nil {
		t.Fatal(err)
	}
	const kind = Kind("checkpoint")
	body := bytes.Repeat([]byte("x"), 2*MaxBody) // larger than any message's
	env, err := SignStatement(kind, body, kp)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenStatement(env, kind, PublicKey(kp)); err != nil || !bytes.Equal(got, body) {
		t.Fatal(err)
	}
	if _, err := OpenStatement(env, kind, PublicKey(other)); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	if _, err := OpenStatement(env, "other", PublicKey(kp)); !errors.Is(err, ErrMalformed) {
		t.Errorf("another kind: %v", err)
	}
	renamed := env
	renamed.Kind = "other"
	if _, err := OpenStatement(renamed, "other", PublicKey(kp)); !errors.Is(err, ErrSignature) {
		t.Errorf("renamed: %v", err)
	}
	newer := env
	newer.V = 2
	if _, err := OpenStatement(newer, kind, PublicKey(kp)); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
	changed := env
	changed.Body = append(bytes.Clone(body), 'x')
	if _, err := OpenStatement(changed, kind, PublicKey(kp)); !errors.Is(err, ErrSignature) {
		t.Errorf("changed: %v", err)
	}
	if _, err := OpenStatement(env, kind, "x"); !errors.Is(err, ErrMalformed) {
		t.Errorf("no key: %v", err)
	}
}

// A key that signs files must not be got to sign a message by the name of a kind.
func TestAStatementIsNoMessage(t *testing.T) {
	t.Parallel()
	kp, err := NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), "envelope.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(parsed, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if typ, ok := v.Type.(*ast.Ident); !ok || typ.Name != "Kind" {
			return true
		}
		found++
		kind := Kind(v.Values[0].(*ast.BasicLit).Value)
		kind = kind[1 : len(kind)-1]
		if _, err := SignStatement(kind, []byte("x"), kp); err == nil {
			t.Errorf("a statement of the kind %s is signed", kind)
		}
		return true
	})
	if found != len(messages) {
		t.Errorf("there are %d kinds of messages, and %d are kept apart from statements", found, len(messages))
	}
}
