package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
)

// fails has a group fail on messages until so many are dead.
func fails(t testing.TB, env []string, group, topic string, n int) {
	t.Helper()
	_, servers, _ := strings.Cut(env[0], "=")
	cl, err := client.New(client.Config{NameServers: servers})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		defer cancel()
		if err := cl.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	consumer, err := cl.NewPushConsumer(client.PushConfig{Group: group, From: client.FromFirst, MaxReconsumeTimes: client.NoRetries})
	if err != nil {
		t.Fatal(err)
	}
	err = consumer.Subscribe(topic, "*", func(context.Context, []*client.MessageExt) error { return errors.New("it fails") })
	if err == nil {
		err = consumer.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "dead letters", func() error {
		dead := 0
		for _, err := range cl.Admin().DeadLetters(t.Context(), group, client.DeadLetterQuery{}) {
			if err == nil {
				dead++
			}
		}
		if dead < n {
			return fmt.Errorf("%d of %d", dead, n)
		}
		return nil
	})
}

// exported decodes what export has written.
func exported(t testing.TB, text string) (letters []map[string]any) {
	t.Helper()
	for line := range strings.Lines(text) {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		letters = append(letters, l)
	}
	return letters
}

func TestDeadLetterCommands(t *testing.T) {
	env := shared(t)
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	begin := time.Now()
	raftmqIn(t, env, strings.NewReader("one\ntwo\nth\xffree\n"), "produce", "--topic", "Failing", "--key", "k%d", "--tag", "T", "--shard", "x").want(t, 0)
	run("dlq list failing").want(t, exitFailed, "failing")
	run("topic create --queues 1 Other").want(t, 0)
	run("produce --topic Other --size 1 --count 1").want(t, 0)
	run("consume --topic Other --group fine --count 1").want(t, 0)
	if rows := run("dlq list -o json fine").rows(t); len(rows) != 0 { // DLQ-07: none is no error
		t.Errorf("%v", rows)
	}
	run("dlq export fine").want(t, 0, "exported 0 dead letters")
	run("dlq resend --all fine").want(t, 0, "sent 0 dead letters")
	fails(t, env, "failing", "Failing", 3)

	rows := run("dlq list -o json failing").rows(t)
	if len(rows) != 3 || rows[0]["topic"] != "Failing" || rows[0]["tag"] != "T" || rows[0]["tries"] != 1.0 || rows[0]["handled"] != false || rows[0]["broker"] != "broker-a" {
		t.Fatalf("%v", rows)
	}
	run("dlq list --limit 2 failing").want(t, 0, "there are more than 2")
	run("dlq list --key k1 failing").want(t, 0, "  k1  ")
	run("dlq list --from 1h --to "+begin.Add(-time.Minute).Format(time.RFC3339)+" failing").want(t, 0)
	if rows := run("dlq list -o json --to " + begin.Add(-time.Minute).Format(time.RFC3339) + " failing").rows(t); len(rows) != 0 {
		t.Errorf("before there was one: %v", rows)
	}
	letters := exported(t, run("dlq export failing").want(t, 0, "exported 3 dead letters").out)
	byKey := map[string]map[string]any{}
	for _, l := range letters {
		byKey[l["keys"].([]any)[0].(string)] = l
	}
	if len(byKey) != 3 || byKey["k0"]["body"] != "one" || byKey["k2"]["bodyBase64"] != "dGj/cmVl" || byKey["k1"]["topic"] != "Failing" || byKey["k1"]["handled"] != false {
		t.Fatalf("%v", letters)
	}
	file := filepath.Join(t.TempDir(), "letters")
	run("dlq export --file "+file+" failing").want(t, 0, "exported 3")
	run("dlq export --file "+file+" failing").want(t, exitUsage, file)

	id := byKey["k1"]["msgId"].(string)
	run("dlq show failing "+id).want(t, 0, "two", "Failing", id, "k1")
	run("dlq show failing "+byKey["k1"]["offsetMsgId"].(string)).want(t, 0, "two")
	run("dlq show -o json failing "+byKey["k2"]["msgId"].(string)).want(t, 0, "dGj/cmVl")
	run("dlq show failing "+byKey["k2"]["msgId"].(string)).want(t, 0, "-o json")
	run("dlq show failing none").want(t, exitFailed, "none", "dlq list failing")

	// Sent again while nobody is there; then the group has it, with the topic that it
	// was sent to, and nobody else has.
	run("dlq resend failing "+id).want(t, 0, "sent 1 dead letters", "sent again")
	run("dlq resend failing "+id+" none").want(t, exitFailed, "handled before", "--force", "not found")
	run("dlq resend --force failing "+id).want(t, 0, "sent 1 dead letters")
	if rows := run("dlq list -o json --unhandled failing").rows(t); len(rows) != 2 {
		t.Errorf("not handled: %v", rows)
	}
	got := exported(t, run("consume --topic Failing --group failing --count 2 -o json").want(t, 0).out)
	for _, m := range got {
		if m["body"] != "two" || m["topic"] != "Failing" || m["msgId"] != id || m["reconsumeTimes"] != 0.0 {
			t.Errorf("%v", m)
		}
	}
	run("dlq resend --all --key k0 failing").want(t, 0, "sent 1 dead letters")
	if rows := run("dlq resend --all -o json failing").want(t, 0, "sent 1 dead letters").rows(t); len(rows) != 0 {
		t.Errorf("what went wrong: %v", rows)
	}
	lines := strings.Split(strings.TrimSpace(run("consume --topic Failing --group failing --count 2").want(t, 0).out), "\n")
	slices.Sort(lines)
	if !slices.Equal(lines, []string{"one", "th\xffree"}) {
		t.Errorf("%q", lines)
	}
	run("consume --topic Failing --group failing --idle 300ms").want(t, 0, "consumed 0 messages")
	run("dlq resend --all failing").want(t, 0, "sent 0 dead letters")
	if rows := run("dlq list -o json failing").rows(t); len(rows) != 3 || rows[0]["handled"] != true || rows[2]["handled"] != true {
		t.Errorf("%v", rows)
	}

	for line, text := range map[string]string{
		"dlq list": "GROUP", "dlq list a b": "GROUP", "dlq show failing": "ID", "dlq resend": "GROUP", "dlq resend failing": "--all",
		"dlq resend --all failing x": "--all", "dlq resend --key k failing x": "--all", "dlq resend --all --force failing": "--force",
		"dlq list --from soon failing": "--from soon", "dlq list --from 1h --to 2h failing": "--to is before", "dlq list --limit -1 failing": "--limit -1",
		"dlq list ../../x": "../../x", "dlq list -o xml failing": "-o xml", "dlq": "",
	} {
		code := exitUsage
		if line == "dlq" {
			code = 0
		}
		run(line).want(t, code, text)
	}
	run("dlq list nobody").want(t, exitFailed, "nobody", "does not exist")
}
