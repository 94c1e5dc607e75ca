package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/storage/disk"
)

// contents are checksums of all files below a directory.
func contents(t testing.TB, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		fmt.Fprintf(&out, "%s %x\n", name, sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A majority is lost for good: one survivor is recovered, and has every message.
// A dry run changes nothing; a node that runs, and a damaged one, are refused.
func TestRecoverSurvivor(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, 1)
	env := []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	raftmqIn(t, env, strings.NewReader(lines(200)), "produce", "--topic", "T", "--shard", "x").want(t, 0)
	c.settled()
	const left = "n2"
	recover := "raft recover --group broker-a --dir " + c.dataDir(left)
	run(recover).want(t, exitFailed, "stopped")
	was, err := c.status("broker-a", left)
	if err != nil {
		t.Fatal(err)
	}
	c.kill(c.others(left)...)
	const advice = "bring back a majority"
	eventually(t, "health says that a majority is lost, in each row", func() error {
		r := run("raft health -o json")
		for _, row := range r.printed(t) {
			if row["well"] != false || !strings.Contains(fmt.Sprint(row["todo"]), advice) {
				return fmt.Errorf("%v", row)
			}
		}
		if r.code != exitFailed || len(r.printed(t)) != 4 {
			return fmt.Errorf("exit code %d, %d rows", r.code, len(r.printed(t)))
		}
		return nil
	})
	for _, line := range []string{"raft snapshot", "raft scrub", "raft verify --no-scrub"} {
		if rows := run(line+" -o json").want(t, exitFailed).printed(t); len(rows) != 3 {
			t.Errorf("%s shows %v, want all members", line, rows)
		}
	}
	c.kill(left)

	before := contents(t, c.dataDir(left))
	run(recover+" --dry").want(t, 0, was.ServerID, "nothing was changed")
	if after := contents(t, c.dataDir(left)); after != before {
		t.Errorf("a dry run changed files:\n%s\nwere\n%s", after, before)
	}
	run("raft recover --group broker-b --dir "+c.dataDir(left)).want(t, exitFailed)
	run("raft recover --group broker-a").want(t, exitUsage, "--dir")
	run("raft recover --dir "+c.dataDir(left)).want(t, exitUsage, "--group")

	// Damage: nothing is done.
	segments, err := filepath.Glob(filepath.Join(c.dataDir(left), "broker-a", "store", "commitlog", "*"))
	if err != nil || len(segments) == 0 {
		t.Fatal(segments, err)
	}
	flip := func() {
		b, err := os.ReadFile(segments[0])
		if err == nil {
			b[1000] ^= 1
			err = os.WriteFile(segments[0], b, 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flip()
	run(recover).want(t, exitFailed, "damaged, and nothing was changed", "another survivor")
	flip()
	run("raft recover --group broker-a --node n9 --config "+c.config).want(t, exitUsage, "--node")
	run("raft recover --group broker-a --node n2 --config "+c.config).want(t, exitFailed, filepath.Join("data", "n2", "broker-a"))

	for _, id := range c.others(left) {
		if err := os.RemoveAll(c.dataDir(id)); err != nil {
			t.Fatal(err)
		}
	}
	r := raftmqIn(t, env, nil, "raft", "recover", "--group", "broker-a", "--config", c.config, "--node", left, "--set", "storePathRootDir="+c.dataDir(left))
	r.want(t, 0, was.ServerID, "start the node")
	id, err := raftgroup.ReadIdentity(disk.OS(), filepath.Join(c.dataDir(left), "broker-a"))
	if err != nil {
		t.Fatal(err)
	}
	run(recover).want(t, exitFailed, "already", string(id.ServerID()), "--again")
	run("verify --dir "+c.dataDir(left)).want(t, 0)
	c.start(left)
	c.leader("broker-a")
	s, err := c.status("broker-a", left)
	if err != nil || len(s.Members) != 1 || s.ServerID != string(id.ServerID()) || s.ServerID == was.ServerID || s.Members[0].ServerID != s.ServerID || s.Members[0].Address != c.peer[left] {
		t.Errorf("%+v, %v", s, err)
	}
	env = []string{"RAFTMQ_NAMESRV=" + c.namesrv[left]}
	got := run("consume --topic T --group g --count 200").want(t, 0, "consumed 200 messages")
	if got.out != lines(200) {
		t.Errorf("consumed %.200q...", got.out)
	}
	raftmqIn(t, env, strings.NewReader("more\n"), "produce", "--topic", "T", "--shard", "x").want(t, 0)
	run("raft status").want(t, 0, "raft recover")
	run("raft health").want(t, exitFailed, "it has 1 voters, and 3 replicas in a node's file", "raft add-peer")
	run("raft health --group nope").want(t, exitUsage, "there is no group nope", "there are broker-a")
	run("raft add-peer --group broker-a --address "+c.peer[left]).want(t, 0, "is a member already", "nothing was changed")
	run("raft trust --group broker-a --node "+left).want(t, exitFailed, "not suspect")
}
