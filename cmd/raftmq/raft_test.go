package main

import (
	"errors"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

// Members that do not answer are shown, each once, whatever the name server knows.
func TestDeadMembers(t *testing.T) {
	t.Parallel()
	members := []remoting.RaftMember{{ServerID: "n-1-aa", Address: "h:1"}, {ServerID: "n2-bb", Address: "h:2"}, {ServerID: "n3-cc", Address: "h:3"}}
	alive := func(i int) replica {
		return replica{group: "g", addr: "live", node: nodeOf(members[i].ServerID), status: &client.RaftStatus{ServerID: members[i].ServerID, Members: members}}
	}
	dead := func(addr string) replica { return replica{group: "g", addr: addr, err: errors.New(addr + ": refused")} }
	for name, c := range map[string]struct {
		group []replica
		want  []string
	}{
		"all answer":       {[]replica{alive(0), alive(1), alive(2)}, []string{"n-1 live ", "n2 live ", "n3 live "}},
		"one registered":   {[]replica{dead("b:1"), alive(1), alive(2)}, []string{"n2 live ", "n3 live ", "n-1 b:1 b:1: refused"}},
		"one unregistered": {[]replica{alive(1), alive(2)}, []string{"n2 live ", "n3 live ", "n-1 h:1 " + errUnregistered.Error()}},
		"two, one known":   {[]replica{alive(0), dead("b:2")}, []string{"n-1 live ", "n2 h:2 b:2: refused", "n3 h:3 b:2: refused"}},
		"none answers":     {[]replica{dead("b:1"), dead("b:2")}, []string{" b:1 b:1: refused", " b:2 b:2: refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, r := range withDead(c.group) {
				text := ""
				if r.err != nil {
					text = r.err.Error()
				}
				got = append(got, r.node+" "+r.addr+" "+text)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// A process that has ended is left out of the CPU time.
func TestCPUMeterEndedProcess(t *testing.T) {
	m, err := newCPUMeter("")
	if err != nil {
		t.Fatal(err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	self := m.pids[0]
	m.pids = append(m.pids, ended.Process.Pid)
	used, err := m.read()
	if err != nil || len(used) != 1 || !slices.Equal(m.pids, []int{self}) {
		t.Errorf("%v of %v, %v", used, m.pids, err)
	}
	after := map[int]time.Duration{self: used[self] + time.Second}
	if got := cpuSince(map[int]time.Duration{self: used[self], 2: time.Hour}, after); got != time.Second {
		t.Errorf("used %v", got)
	}
}
