package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// description is what group describe -o json prints.
type description struct {
	Group             string
	Queues, Consumers []map[string]any
}

func (r result) described(t testing.TB) (d description) {
	t.Helper()
	r.want(t, 0)
	if err := json.Unmarshal([]byte(r.out), &d); err != nil {
		t.Fatalf("%v: %s", err, r.out)
	}
	return d
}

func TestGroupAndMessageCommands(t *testing.T) {
	env := shared(t)
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	run("topic create --queues 1 Grouped").want(t, 0)
	raftmqIn(t, env, strings.NewReader(lines(20)), "produce", "--topic", "Grouped", "--key", "k%d", "--tag", "T", "--shard", "x", "--property", "color=a,b=c", "--property", "size=9").want(t, 0)
	run("consume --topic Grouped --group gg --count 20").want(t, 0)
	run("group list").want(t, 0, "\ngg ")
	if r := run("group list"); strings.Contains(r.out, "TOOLS_CONSUMER") {
		t.Errorf("the system's groups are listed: %s", r.out)
	}
	offset := func(group string, want float64) {
		t.Helper()
		rows := run("group describe --topic Grouped -o json " + group).described(t).Queues
		if len(rows) != 1 || rows[0]["offset"] != want || rows[0]["end"] != 20.0 || rows[0]["lag"] != 20-want {
			t.Errorf("%s is at %v, want %v", group, rows, want)
		}
	}
	offset("gg", 20)
	run("group describe gg").want(t, 0, "Grouped", "0 consumers")

	// Nobody of the group is there, and it goes on where it was told.
	if n := run("group reset-offset --topic Grouped --to first -o json gg").field(t, "offset"); n != 0 {
		t.Errorf("reset to the first: %v", n)
	}
	offset("gg", 0)
	if r := run("consume --topic Grouped --group gg --count 20").want(t, 0); r.out != lines(20) {
		t.Errorf("again: %.100q", r.out)
	}
	offset("gg", 20)
	run("group reset-offset --topic Grouped --broker broker-a --queue 0 --offset 17 gg").want(t, 0, "17")
	if r := run("consume --topic Grouped --group gg --count 1").want(t, 0); r.out != "line 17\n" {
		t.Errorf("from 17: %q", r.out)
	}
	run("group reset-offset --topic Grouped --to 2020-01-01T00:00:00Z --only-back gg").want(t, 0, " 0\n")
	run("group reset-offset --topic Grouped --to last --only-back gg").want(t, 0, " 0\n")
	if n := run("group skip --topic Grouped -o json gg").field(t, "offset"); n != 20 {
		t.Errorf("skipped to %v", n)
	}
	run("consume --topic Grouped --group gg --idle 300ms").want(t, 0, "consumed 0 messages")

	run("group create cloned").want(t, 0)
	run("group clone-offset --from gg --topic Grouped cloned").want(t, 0, "Grouped")
	offset("cloned", 20)
	run("group delete -o json cloned").want(t, 0, `"deleted": true`)
	const list = "raftmq group list"
	run("group delete cloned").want(t, exitFailed, "cloned", list)
	run("group describe nobody").want(t, exitFailed, "nobody", list)
	run("group skip --topic Grouped nobody").want(t, exitFailed, "nobody", list)
	run("group skip --topic ../../x gg").want(t, exitFailed, "../../x")
	run("group clone-offset --from nobody gg").want(t, exitFailed, "nobody", list)
	run("group reset-offset --topic Grouped --broker broker-a --queue 0 --offset 99 gg").want(t, exitFailed, "99", "[0, 20)")

	// Messages: by key, by either id, by time.
	rows := run("message query --key k7 -o json Grouped").rows(t)
	if len(rows) != 1 || rows[0]["body"] != "line 7" || rows[0]["tag"] != "T" || rows[0]["topic"] != "Grouped" {
		t.Fatalf("%v", rows)
	}
	if keys := rows[0]["keys"].([]any); len(keys) != 1 || keys[0] != "k7" {
		t.Errorf("keys %v", keys)
	}
	if p := rows[0]["properties"].(map[string]any); p["color"] != "a,b=c" || p["size"] != "9" {
		t.Errorf("properties %v", p)
	}
	run("message query --id "+rows[0]["msgId"].(string)+" Grouped").want(t, 0, `"line 7"`)
	id := rows[0]["offsetMsgId"].(string)
	run("message view "+id).want(t, 0, "Grouped", `"line 7"`, "UNIQ_KEY")
	run("message view -o json "+id).want(t, 0, `"body":"line 7"`)
	run("message view "+id[:16]+"00000FFFFFFFFFFF").want(t, exitFailed, "message not found", "raftmq message query --id")
	if rows := run("message query --from 2020-01-01T00:00:00Z --limit 5 -o json Grouped").rows(t); len(rows) != 5 {
		t.Errorf("%d messages", len(rows))
	}
	if rows := run("message query --from 2020-01-01T00:00:00Z --to 2020-01-02T00:00:00Z -o json Grouped").rows(t); len(rows) != 0 {
		t.Errorf("%d messages of a time when there were none", len(rows))
	}
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	if rows := run("message query --from " + later + " -o json Grouped").rows(t); len(rows) != 0 {
		t.Errorf("%d messages of a time that is to come", len(rows))
	}
	if rows := run("message query --key nothing -o json Grouped").rows(t); len(rows) != 0 {
		t.Errorf("%v", rows)
	}
	run("message query --key k NoSuchTopic").want(t, exitFailed, "NoSuchTopic")
}

// A group is made before its first consumer; what no flag names stays.
func TestGroupCreate(t *testing.T) {
	env := shared(t)
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	want := func(r result, consume, broadcast bool, retries, queues float64) {
		t.Helper()
		for _, row := range r.rows(t) {
			if row["group"] != "made" {
				continue
			}
			if row["consume"] != consume || row["broadcast"] != broadcast || row["maxRetries"] != retries || row["retryQueues"] != queues {
				t.Errorf("%v", row)
			}
			return
		}
		t.Errorf("no group made: %s", r.out)
	}
	want(run("group create -o json made"), true, true, 16, 1)
	want(run("group create --retry-max 3 --broadcast off -o json made"), true, false, 3, 1)
	want(run("group create --retry-max 0 --retry-queues 2 --consume off -o json made"), false, false, 0, 2)
	want(run("group list -o json"), false, false, 0, 2)
	run("group create bad/name").want(t, exitUsage, "bad/name")
	run("topic create --queues 1 Made").want(t, 0)
	run("produce --topic Made --size 1 --count 1").want(t, 0)
	run("consume --topic Made --group made --idle 300ms").want(t, 0, "consumed 0 messages")
	want(run("group create --consume on -o json made"), true, false, 0, 2)
	run("consume --topic Made --group made --count 1").want(t, 0, "consumed 1 messages")
	// A group that was made, and has not begun, begins where it is told.
	run("group create ready").want(t, 0)
	run("consume --topic Made --group ready --from last --idle 300ms").want(t, 0, "consumed 0 messages")
	run("produce --topic Made --size 1 --count 1").want(t, 0)
	run("consume --topic Made --group ready --from last --count 1").want(t, 0, "consumed 1 messages")
}

// Queues without a committed offset count too, also where the broker group knows
// of none; those that consume are in JSON.
func TestGroupDescribeUncommitted(t *testing.T) {
	c := startCluster(t, 1, 2)
	env := []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	run("topic create --queues 1 Halves").want(t, 0)
	run("produce --topic Halves --size 1 --count 10").want(t, 0)
	run("group create halved").want(t, 0)
	if d := run("group describe -o json halved").described(t); d.Group != "halved" || len(d.Queues) != 0 || d.Consumers == nil {
		t.Errorf("%+v", d)
	}
	run("group reset-offset --topic Halves --broker broker-a --queue 0 --offset 0 halved").want(t, 0)
	d := run("group describe -o json halved").described(t)
	if len(d.Queues) != 2 || d.Queues[0]["offset"] != 0.0 || d.Queues[1]["offset"] != nil || d.Queues[1]["broker"] != "broker-b" {
		t.Fatalf("%+v", d)
	}
	if a, b := d.Queues[0]["lag"].(float64), d.Queues[1]["lag"].(float64); a+b != 10 || b != d.Queues[1]["end"] {
		t.Errorf("a lag of %v and %v", a, b)
	}
	run("group describe halved").want(t, 0, "broker-b  0      -  ", "0 consumers")

	// A group that has committed nothing yet, but subscribes.
	p := startCommand(t, env, nil, "consume", "--topic", "Halves", "--group", "waiting", "--tag", "none")
	eventually(t, "a consumer", func() error {
		r := run("group describe -o json waiting")
		if r.code != 0 {
			return fmt.Errorf("%s", r.err)
		}
		d := r.described(t)
		n := 0
		for _, q := range d.Queues {
			if q["topic"] == "Halves" {
				n++
			}
		}
		if n != 2 || len(d.Consumers) != 1 || d.Consumers[0]["clientId"] == "" || d.Consumers[0]["language"] != "GO" {
			return fmt.Errorf("%+v", d)
		}
		return nil
	})
	run("group describe waiting").want(t, 0, "1 consumers", "GO")
	p.interrupt(0)
}
