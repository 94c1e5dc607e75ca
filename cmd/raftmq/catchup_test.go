package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a replica costs that has lost its disk, and fetches RAFTMQ_CATCHUP bytes
// while 64 senders send: `make catchup SIZE=4294967296`. Rounds without and with
// it alternate. A measurement, and no verdict but that all is fetched that
// was missing.
func TestMeasureCatchUp(t *testing.T) {
	size, err := strconv.ParseInt(os.Getenv("RAFTMQ_CATCHUP"), 10, 64)
	if err != nil {
		t.Skip("RAFTMQ_CATCHUP is not set: bytes to fetch")
	}
	c := newCluster(t, t.TempDir(), 3, 1)
	c.set = append(c.set, "raftSnapshotBytes=128MiB", "raftTrailingBytes=32MiB", "raftSegmentSize=64MiB", "mappedFileSizeCommitLog=256MiB")
	c.run()
	env := []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}
	bench := func(size int, d time.Duration) map[string]any {
		t.Helper()
		line := fmt.Sprintf("bench produce --senders 64 --size %d --duration %v -o json", size, d)
		return raftmqIn(t, env, nil, strings.Fields(line)...).rows(t)[0]
	}
	end := func() int64 {
		leader, _ := c.leader("broker-a")
		s, err := c.status("broker-a", leader)
		if err != nil {
			t.Fatal(err)
		}
		return s.CommitLogEnd
	}
	for end() < size {
		bench(64<<10, 5*time.Second)
	}
	d := max(3*time.Second, min(20*time.Second, time.Duration(size/(64<<20))*time.Second/2))
	say := func(what string, row map[string]any) {
		t.Logf("%-18s %8.0f sends/s, p50 %.2f, p99 %.2f ms, %v errors", what, row["msgPerS"], row["p50"], row["p99"], row["errors"])
	}
	for round := range 2 {
		c.healthy()
		say(fmt.Sprintf("round %d, without", round), bench(1024, d))
		leader, term := c.leader("broker-a")
		n := c.others(leader)[0]
		c.kill(n)
		if err := os.RemoveAll(c.dataDir(n)); err != nil {
			t.Fatal(err)
		}
		c.start(n)
		begun := time.Now()
		missing := int64(0)
		eventually(t, "it fetches most of the log", func() error {
			s, err := c.status("broker-a", n)
			if missing = s.Missing + s.Fetched; err == nil && (s.Fetched == 0 || missing < size/2) {
				err = fmt.Errorf("%d bytes are missing, %d were fetched", s.Missing, s.Fetched)
			}
			return err
		})
		say(fmt.Sprintf("round %d, during", round), bench(1024, d))
		s, err := c.status("broker-a", n)
		if err != nil {
			t.Fatal(err)
		}
		left := s.Missing
		for s.Missing > 0 {
			time.Sleep(200 * time.Millisecond) // a measurement of minutes
			if s, err = c.status("broker-a", n); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("round %d: %d bytes were missing, %d left after the sends, %d fetched in %v", round, missing, left, s.Fetched, time.Since(begun).Round(time.Second))
		if s.Fetched < missing {
			t.Errorf("%d bytes were missing, %d fetched", missing, s.Fetched)
		}
		if _, now := c.leader("broker-a"); now != term {
			t.Logf("round %d: there was an election", round)
		}
	}
}
