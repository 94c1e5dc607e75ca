package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// rows decodes what a command that did its work prints with -o json.
func (r result) rows(t testing.TB) []map[string]any {
	t.Helper()
	return r.want(t, 0).printed(t)
}

// printed is rows, also of a command that found something wrong.
func (r result) printed(t testing.TB) (rows []map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.out), &rows); err != nil {
		t.Fatalf("%v: %s", err, r.out)
	}
	return rows
}

// field is a number of the only row.
func (r result) field(t testing.TB, key string) float64 {
	t.Helper()
	rows := r.rows(t)
	if len(rows) != 1 {
		t.Fatalf("%d rows: %s", len(rows), r.out)
	}
	n, ok := rows[0][key].(float64)
	if !ok {
		t.Fatalf("%s is %v: %s", key, rows[0][key], r.out)
	}
	return n
}

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.String()
}

func TestProduceAndConsume(t *testing.T) {
	env := shared(t)
	run := func(in io.Reader, line string) result {
		t.Helper()
		return raftmqIn(t, env, in, strings.Fields(line)...)
	}
	// Standard input, in order in one queue; without a topic, which is made.
	r := run(strings.NewReader(lines(500)), "produce --topic Piped --shard x -o json")
	if n := r.field(t, "stored"); n != 500 {
		t.Errorf("%v stored", n)
	}
	r = run(nil, "consume --topic Piped --group g --idle 1s").want(t, 0, "consumed 500 messages")
	if r.out != lines(500) {
		t.Errorf("consumed %.200q...", r.out)
	}
	// The group goes on behind what it has consumed; another begins where it is told.
	run(nil, "consume --topic Piped --group g --idle 300ms").want(t, 0, "consumed 0 messages")
	run(nil, "consume --topic Piped --group last --from last --idle 300ms").want(t, 0, "consumed 0 messages")
	run(nil, "consume --topic Piped --group late --from 2120-01-01T00:00:00Z --idle 300ms").want(t, 0, "consumed 0 messages")
	run(nil, "consume --topic Piped --group time --from 2020-01-01T00:00:00Z --count 500").want(t, 0, "consumed 500 messages")
	r = run(nil, "consume --topic Piped --group counted --count 5").want(t, 0, "consumed 5 messages")
	if r.out != lines(5) {
		t.Errorf("the first five are %q", r.out)
	}
	r = run(nil, "consume --topic Piped --group counted --count 1").want(t, 0)
	if r.out != "line 5\n" {
		t.Errorf("the sixth is %q", r.out)
	}

	run(nil, "consume --topic Piped --group all --count 501 --idle 1s").want(t, 0, "consumed 500 of 501 messages: nothing came for 1s")

	// A file; only its first lines; key and tag.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("a\n\nc\xff\nnot sent"), 0o640); err != nil {
		t.Fatal(err)
	}
	run(nil, "produce --topic Keyed --file "+file+" --count 3 --key k%d --tag T --shard x").want(t, 0)
	run(nil, "produce --topic Keyed --size 10 --count 2 --tag U").want(t, 0)
	r = run(nil, "consume --topic Keyed --group g --tag T --count 3 -o json").want(t, 0)
	var bodies []string
	for line := range strings.Lines(r.out) {
		var m struct {
			Body, Tag, Topic string
			BodyBase64       []byte
			Keys             []string
			Offset           int
			Properties       map[string]string
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if m.Tag != "T" || m.Topic != "Keyed" || m.Properties == nil || len(m.Keys) != 1 || m.Keys[0] != fmt.Sprintf("k%d", m.Offset) {
			t.Errorf("%s", line)
		}
		bodies = append(bodies, m.Body+string(m.BodyBase64))
	}
	if !slices.Equal(bodies, []string{"a", "", "c\xff"}) {
		t.Errorf("%q", bodies)
	}
	run(nil, "consume --topic Keyed --group other --tag T||U --idle 500ms").want(t, 0, "consumed 5 messages", "raftmq raf\n")
	raftmqIn(t, env, nil, "consume", "--topic", "Keyed", "--group", "sql", "--sql", "TAGS = 'T'").want(t, exitFailed, "Keyed", "SQL92", "enablePropertyFilter is off")
	raftmqIn(t, env, nil, "consume", "--topic", "Keyed", "--group", "sql", "--sql", "TAGS = 'T'", "--tag", "T").want(t, exitUsage, "--tag and --sql")
	run(nil, "consume --topic NotThere --group g --idle 300ms").want(t, 0, "there is no topic NotThere yet", "consumed 0 messages")

	// A line too long ends the command, and what was before it is stored.
	r = run(strings.NewReader("short\n"+strings.Repeat("x", maxLine+10)+"\n"), "produce --topic Long")
	tooLong := fmt.Sprintf("line 2 is longer than %d bytes, the limit of a message's body; nothing of it was sent", maxLine)
	r.want(t, exitFailed, tooLong)
	// By one byte, which the reader's buffer has room for.
	run(strings.NewReader("short\n"+strings.Repeat("x", maxLine+1)+"\n"), "produce --topic Long").want(t, exitFailed, tooLong)
	run(nil, "produce --topic bad/name --size 1 --count 1").want(t, exitUsage, "bad/name")
}

// By level and by time: messages are not there before.
func TestProduceDelayed(t *testing.T) {
	env := shared(t)
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	run("topic create --queues 1 Delayed").want(t, 0)
	for i, flag := range []string{"--delay 1", "--deliver-after 1s"} {
		run("produce --topic Delayed --size 10 --count 1 "+flag).want(t, 0)
		r := run("consume --topic Delayed --group g --count 1 -o json").want(t, 0, "consumed 1 messages")
		var m struct {
			Offset              int
			StoreTime, BornTime time.Time
		}
		if err := json.Unmarshal([]byte(r.out), &m); err != nil {
			t.Fatalf("%v: %s", err, r.out)
		}
		if m.Offset != i || m.StoreTime.Sub(m.BornTime) < 900*time.Millisecond {
			t.Errorf("%s: %s", flag, r.out)
		}
	}
	run("produce --topic Delayed --size 10 --count 1 --deliver-after 9000h").want(t, exitFailed, "rejected")
}

// consume | head: who reads has seen enough, and consume ends without a word of
// an error, having consumed what was printed.
func TestConsumeIntoClosedPipe(t *testing.T) {
	env := shared(t)
	raftmqIn(t, env, strings.NewReader(lines(20000)), "produce", "--topic", "Headed").want(t, 0)
	cmd, _, errs := command(env, nil, "consume", "--topic", "Headed", "--group", "g")
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = pw
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pw.Close() // the child has it
	buf := make([]byte, 16)
	if _, err := io.ReadFull(pr, buf); err != nil || !bytes.HasPrefix(buf, []byte("line ")) {
		t.Errorf("%q, %v", buf, err)
	}
	pr.Close() // as head does
	waitFor(t, cmd)
	if code := cmd.ProcessState.ExitCode(); code != 0 || strings.Contains(errs.String(), "raftmq:") {
		t.Errorf("exit code %d, %s", code, errs)
	}
}

// waitFor waits for the end of a command, but not for ever.
func waitFor(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	late := time.AfterFunc(commandTimeout, func() { cmd.Process.Kill() }) // it is gone already, or goes now
	defer late.Stop()
	cmd.Wait() // its code is in ProcessState
	if cmd.ProcessState.ExitCode() == -1 {
		t.Errorf("%v: %v", cmd.Args, cmd.ProcessState)
	}
}

// Ctrl-C: the normal end of what goes on for ever; 130 for what was not done.
func TestInterrupt(t *testing.T) {
	env := shared(t)
	raftmqIn(t, env, strings.NewReader("one\n"), "produce", "--topic", "Interrupted").want(t, 0)
	free := ownPort(t)
	// A name server that takes connections and says nothing.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close() // it only accepted
	stdin, keep, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer keep.Close() // it stays open: produce waits for more
	if _, err := io.WriteString(keep, "two\n"); err != nil {
		t.Fatal(err)
	}
	printed := func(text string) func(*background) {
		return func(p *background) { p.await(text) }
	}
	for name, c := range map[string]struct {
		args  []string
		in    io.Reader
		until func(*background)
		code  int
		says  string
	}{
		"consume": {args: []string{"consume", "--topic", "Interrupted", "--group", "g"}, until: printed("one\n"), says: "consumed "},
		"namesrv": {args: []string{"namesrv", "--listen", free}, until: printed("is up")},
		"produce waits": {args: []string{"produce", "--topic", "Interrupted"}, in: stdin, until: func(*background) {
			raftmqIn(t, env, nil, "consume", "--topic", "Interrupted", "--group", "both", "--count", "2").want(t, 0, "two\n")
		}, code: exitInterrupted, says: "interrupted"},
		"produce tries": {args: []string{"produce", "--namesrv", mute.Addr().String(), "--topic", "A", "--size", "1", "--count", "1", "--timeout", "50s"},
			until: func(*background) {
				nc, err := mute.Accept()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { nc.Close() }) // the other side has ended
			}, code: exitInterrupted, says: "interrupted"},
		"dev": {args: []string{"dev", "--nodes", "1", "--groups", "1", "--dir", filepath.Join(t.TempDir(), "dev"), "--set", "electionTimeout=100ms"},
			until: printed("Ctrl-C ends the cluster")},
	} {
		t.Run(name, func(t *testing.T) {
			p := startCommand(t, env, c.in, c.args...)
			c.until(p)
			p.interrupt(c.code)
			if !strings.Contains(p.out.String(), c.says) || strings.Contains(p.out.String(), "context canceled") {
				t.Errorf("%s", p.out)
			}
		})
	}
}

func TestTopicCommands(t *testing.T) {
	env := shared(t)
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	rows := run("topic create --queues 3 -o json Managed").rows(t)
	if len(rows) != 1 || rows[0]["writeQueues"] != 3.0 || rows[0]["perm"] != "RW" || rows[0]["broker"] != "broker-a" {
		t.Errorf("%v", rows)
	}
	run("topic create --queues 5 --perm 4 Managed").want(t, 0, "Managed  broker-a  5            5             R")
	run("produce --topic Managed --size 1 --count 1 --timeout 1s").want(t, exitFailed, "Managed")
	run("topic create --queues 3 --attribute message.dedup=false Managed").want(t, 0)
	run("topic describe Managed").want(t, 0, "message.dedup=false")
	if a, ok := run("topic describe -o json Managed").rows(t)[0]["attributes"].(map[string]any); !ok || a["message.dedup"] != "false" {
		t.Errorf("attributes %v", a)
	}
	run("topic create --attribute -message.dedup --queues 3 Managed").want(t, 0)
	if a, ok := run("topic describe -o json Managed").rows(t)[0]["attributes"].(map[string]any); !ok || len(a) != 0 {
		t.Errorf("attributes %v", a)
	}
	run("produce --topic Managed --size 10 --count 30").want(t, 0)
	sum := 0.0
	stats := run("topic describe -o json Managed").rows(t)
	for _, row := range stats {
		sum += row["messages"].(float64)
	}
	if len(stats) != 3 || sum != 30 {
		t.Errorf("%v", stats)
	}
	run("topic list").want(t, 0, "\nManaged\n")
	if r := run("topic list"); strings.Contains(r.out, "TBW102") || strings.Contains(r.out, "%RETRY%") {
		t.Errorf("the system's topics are listed: %s", r.out)
	}
	run("topic list --all").want(t, 0, "TBW102")
	run("topic delete -o json Managed").want(t, 0, `"deleted": true`)
	run("topic describe Managed").want(t, exitFailed, "Managed", "create it")
	run("topic delete Managed").want(t, exitFailed, "Managed", "create it")
	run("topic create --broker broker-z Managed").want(t, exitUsage, "broker-z", "there are broker-a")
	run("topic create ../../x").want(t, exitUsage, "../../x")
	run("topic create "+strings.Repeat("x", 255)).want(t, exitUsage, "255", "127")
}

func TestRaftAndBenchCommands(t *testing.T) {
	env := shared(t)
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	rows := run("raft status -o json").rows(t)
	if len(rows) != 1 || rows[0]["state"] != "Leader" || rows[0]["node"] != "n1" || rows[0]["complete"] != true || rows[0]["error"] != "" {
		t.Errorf("%v", rows)
	}
	run("raft list-peers").want(t, 0, "broker-a", "n1-", "leader", "yes")
	if rows := run("raft snapshot -o json").rows(t); rows[0]["snapshot"].(float64) < rows[0]["was"].(float64) || rows[0]["snapshot"] == 0.0 {
		t.Errorf("%v", rows)
	}
	run("raft status --group broker-z").want(t, exitUsage, "broker-z", "broker-a")
	run("raft transfer-leader --group broker-a --to n1").want(t, 0, "n1 leads broker-a already", "nothing to do")
	if r := run("raft transfer-leader --help").want(t, 0, "has to be given"); strings.Contains(r.out, "without it all") {
		t.Errorf("%s", r.out)
	}
	run("raft transfer-leader --group broker-a --to n9").want(t, exitFailed, "n9", "n1")

	rows = run("bench produce --senders 1,4 --duration 300ms --size 100 -o json").rows(t)
	if len(rows) != 2 || rows[1]["senders"] != 4.0 || rows[1]["msgPerS"].(float64) <= 0 || rows[1]["errors"] != 0.0 || rows[1]["p99"].(float64) <= 0 {
		t.Errorf("%v", rows)
	}
	rows = run("bench consume --duration 10s -o json").rows(t)
	if len(rows) != 1 || rows[0]["messages"].(float64) <= 0 {
		t.Errorf("%v", rows)
	}
	run("bench consume --topic NotThere --duration 1s").want(t, exitFailed, "NotThere")
}

// With a node down: who it is, and that a topic is deleted all the same.
func TestCommandsWithNodeDown(t *testing.T) {
	c := startCluster(t, 3, 1)
	env := []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	run("topic create --queues 1 Doomed").want(t, 0)
	leader, _ := c.leader("broker-a")
	down := c.others(leader)[0]
	c.kill(down)
	roles := map[string]int{}
	for _, row := range run("raft list-peers -o json").rows(t) {
		role := row["role"].(string)
		roles[role]++
		if dead := strings.HasPrefix(row["serverId"].(string), down+"-"); dead != (role == "unreachable") {
			t.Errorf("%v, and %s is down", row, down)
		}
	}
	if roles["leader"] != 1 || roles["follower"] != 1 || roles["unreachable"] != 1 {
		t.Errorf("%v", roles)
	}
	r := run("topic delete Doomed").want(t, 0, "Doomed  yes", "nothing to do", c.namesrv[down])
	if strings.Contains(r.err, "raftmq:") {
		t.Errorf("%s", r.err)
	}
	run("topic describe Doomed").want(t, exitFailed, "Doomed")
	c.start(down)
	c.ready()
	raftmq(t, "topic", "list", "--namesrv", c.namesrv[down]).want(t, 0)
	if r := raftmq(t, "topic", "list", "--namesrv", c.namesrv[down]); strings.Contains(r.out, "Doomed") {
		t.Errorf("%s has not heard of it: %s", down, r.out)
	}
}
