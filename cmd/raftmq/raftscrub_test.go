package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Row 21, with processes and files: raft scrub has a flipped bit found and mended,
// raft verify has all replicas say that they hold the same, and counts it.
func TestRaftScrubAndVerify(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, 1)
	env := []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}
	run := func(line string) result {
		t.Helper()
		return raftmqIn(t, env, nil, strings.Fields(line)...)
	}
	run("topic create --queues 1 T").want(t, 0)
	run("produce --topic T --size 1000 --count 200").want(t, 0)
	leader, _ := c.leader("broker-a")
	n := c.others(leader)[0]
	flipBit(t, segmentIn(t, c.dataDir(n)), 5000)
	for _, row := range run("raft scrub --rate 100000000 -o json").printed(t) {
		found, repaired := "", ""
		if row["node"] == n {
			found, repaired = "commitLogBytes 4096", "commitLogBytes 4096"
		}
		if row["found"] != found || row["passes"] != 1.0 || row["bytes read"] == 0.0 {
			t.Errorf("%v", row)
		}
		if s := row["repaired"]; s != repaired && s != "" || row["error"] != "" && row["node"] != n { // it may be on its way
			t.Errorf("%v", row)
		}
	}
	eventually(t, "the block is mended", func() error {
		rows := run("raft scrub --no-wait -o json").printed(t)
		for _, row := range rows {
			if row["node"] == n && row["repaired"] == "commitLogBytes 4096" && row["error"] == "" {
				return nil
			}
		}
		return fmt.Errorf("%v", rows)
	})
	rows := run("raft verify --rate 100000000 -o json").rows(t)
	if len(rows) != 3 {
		t.Fatalf("%v", rows)
	}
	for _, row := range run("raft status -o json").rows(t) {
		scrub, ok := row["scrub"].(map[string]any)
		if found := fmt.Sprint(scrub["found"]); !ok || row["node"] == n && found != "map[commitLogBytes:4096]" || row["node"] != n && found != "<nil>" {
			t.Errorf("raft status: %v", row)
		}
	}
	for _, row := range rows {
		if row["identical"] != true || row["error"] != "" || row["index"] == 0.0 || row["index"] != rows[0]["index"] ||
			row["state"] == "" || row["state"] != rows[0]["state"] || row["files"] != rows[0]["files"] {
			t.Errorf("%v", row)
		}
	}
}

// segmentIn is the first segment of the CommitLog below a data directory.
func segmentIn(t *testing.T, dir string) (name string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && name == "" && filepath.Base(filepath.Dir(path)) == "commitlog" && !d.IsDir() {
			name = path
		}
		return err
	})
	if err != nil || name == "" {
		t.Fatalf("no segment in %s: %v", dir, err)
	}
	return name
}

func flipBit(t testing.TB, name string, off int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	b[0] ^= 4
	if err == nil {
		_, err = f.WriteAt(b[:], off)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
