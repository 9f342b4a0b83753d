package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/broker"
)

// The command of docs/cluster.md makes a cluster of the README's file.
func TestTheGuidesCommandMakesACluster(t *testing.T) {
	t.Parallel()
	m := regexp.MustCompile("(?s)```sh\n(cfa-relay .*?)\n```").FindStringSubmatch(deployed(t, "docs/cluster.md"))
	file := regexp.MustCompile("(?s)```yaml\n(host: .*?)```").FindStringSubmatch(deployed(t, "README.md"))
	if m == nil || file == nil {
		t.Fatal("the guide shows no command, or the README no file")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "cfa.yaml")
	if err := os.WriteFile(config, []byte(file[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	args := strings.Fields(m[1])[1:]
	for i, a := range args {
		switch a {
		case "cfa.yaml":
			args[i] = config
		case "cluster":
			if i > 0 {
				args[i] = filepath.Join(dir, a)
			}
		}
	}
	var out, errs strings.Builder
	if code := run(t.Context(), args, stdio{nil, &out, &errs, os.Getenv}); code != exitOK {
		t.Fatalf("it ends with %d: %s", code, errs.String())
	}
	for _, made := range []string{"nats-1", "nats-2", "nats-3", "relay-1", "relay-2"} {
		if _, err := os.Stat(filepath.Join(dir, "cluster", made)); err != nil {
			t.Error(err)
		}
	}
	c, err := broker.ReadConfig(filepath.Join(dir, "cluster", "relay-2", "cfa.yaml"))
	if err != nil || c.NATS == nil || c.NATS.Replicas != 3 || c.Listen.NATS != "" || len(c.Projects) != 1 {
		t.Errorf("%v %+v", err, c)
	}
}
