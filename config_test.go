package raftmq_test

import (
	"os"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/broker"
)

func TestEveryConfigurationKeyIsDocumented(t *testing.T) {
	text, err := os.ReadFile("CONFIGURATION.md")
	if err != nil {
		t.Fatal(err)
	}
	keys := broker.Keys()
	if len(keys) < 40 {
		t.Errorf("only %d keys", len(keys))
	}
	for _, key := range append(keys, "nodes", "groups") {
		if !strings.Contains(string(text), "| `"+key+"`") {
			t.Errorf("%s is not in CONFIGURATION.md", key)
		}
	}
}
