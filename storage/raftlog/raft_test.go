package raftlog

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// lines is a state machine: the commands, one a line.
type lines struct{ text strings.Builder }

func (l *lines) Apply(e *raft.Log) any {
	fmt.Fprintf(&l.text, "%s\n", e.Data)
	return nil
}
func (l *lines) Snapshot() (raft.FSMSnapshot, error) { return linesSnapshot(l.text.String()), nil }
func (l *lines) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(r)
	l.text.Reset()
	l.text.Write(b)
	return errors.Join(err, r.Close())
}

type linesSnapshot string

func (s linesSnapshot) Persist(sink raft.SnapshotSink) error {
	_, err := io.WriteString(sink, string(s))
	return err
}
func (linesSnapshot) Release() {}

// node is a replica on the three stores of this package.
type node struct {
	t      *testing.T
	id     raft.ServerID
	fs     *disk.Mem
	kv     *raft.InmemStore
	raft   *raft.Raft
	trans  *raft.InmemTransport
	log    *Log
	stable *Stable
	snaps  *Snapshots
	fsm    *lines
}

func (n *node) start() {
	n.t.Helper()
	var err error
	n.log, err = Open(n.fs, dir, small())
	ok(n.t, err)
	n.stable, err = NewStable(n.kv, true)
	ok(n.t, err)
	n.snaps = openSnaps(n.t, n.fs)
	ok(n.t, n.snaps.VerifyNewest())
	ok(n.t, CheckTerm(n.stable, n.log, n.snaps))
	_, err = Reconcile(n.log, n.snaps)
	ok(n.t, err)
	n.fsm = &lines{}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = n.id, hclog.NewNullLogger()
	conf.TrailingLogs, conf.SnapshotThreshold, conf.SnapshotInterval = 5, 1<<30, time.Hour
	conf.ShutdownOnRemove = false
	n.raft, err = raft.NewRaft(conf, n.fsm, n.log, n.stable, n.snaps, n.trans)
	ok(n.t, err)
}

// stop ends the replica: a kill if so, else cleanly.
func (n *node) stop(kill bool) {
	n.t.Helper()
	n.trans.DisconnectAll()
	if kill {
		n.fs = n.fs.Clone()
	}
	ok(n.t, n.raft.Shutdown().Error())
	ok(n.t, errors.Join(n.log.Close(), n.stable.Close(), n.trans.Close()))
}

func connect(nodes []*node) {
	for _, a := range nodes {
		for _, b := range nodes {
			a.trans.Connect(b.trans.LocalAddr(), b.trans)
		}
	}
}

// Three replicas of hashicorp/raft on our stores, in fake time: a follower that
// was killed catches up from the log, one that missed too much from a snapshot,
// which empties its log; and after a restart of all, all is there.
func TestUnderRaft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var nodes []*node
		conf := raft.Configuration{}
		for i := range 3 {
			id := fmt.Sprint("n", i)
			n := &node{t: t, id: raft.ServerID(id), fs: newMem(t), kv: raft.NewInmemStore()}
			_, n.trans = raft.NewInmemTransportWithTimeout(raft.ServerAddress(id), time.Second)
			nodes = append(nodes, n)
			conf.Servers = append(conf.Servers, raft.Server{ID: n.id, Address: raft.ServerAddress(id)})
		}
		restart := func(n *node) {
			_, n.trans = raft.NewInmemTransportWithTimeout(raft.ServerAddress(n.id), time.Second)
			n.start()
			connect(nodes)
		}
		for _, n := range nodes {
			n.start()
		}
		connect(nodes)
		ok(t, nodes[0].raft.BootstrapCluster(conf).Error())

		leader := func() *node {
			for range 100 {
				sleep(time.Second)
				synctest.Wait()
				for _, n := range nodes {
					if n.raft.State() == raft.Leader {
						return n
					}
				}
			}
			t.Fatal("no leader")
			return nil
		}
		var want strings.Builder
		count := 0
		apply := func(n int) {
			t.Helper()
			l := leader()
			for range n {
				count++
				line := fmt.Sprint(strings.Repeat("x", count%3000), count)
				ok(t, l.raft.Apply([]byte(line), time.Second).Error())
				want.WriteString(line + "\n")
			}
		}
		agree := func() {
			t.Helper()
			sleep(10 * time.Second)
			synctest.Wait()
			for _, n := range nodes {
				if n.fsm.text.String() != want.String() {
					t.Fatalf("%s has %d bytes, want %d", n.id, n.fsm.text.Len(), want.Len())
				}
			}
		}
		follower := func() *node {
			l := leader()
			for _, n := range nodes {
				if n != l {
					return n
				}
			}
			return nil
		}
		apply(20)
		agree()

		f := follower()
		f.stop(true)
		apply(30)
		restart(f)
		agree()

		f = follower()
		f.stop(true)
		apply(100)
		ok(t, leader().raft.Snapshot().Error())
		if first, _ := leader().log.FirstIndex(); first < 100 {
			t.Fatalf("the leader's log still begins at %d", first)
		}
		restart(f)
		agree()
		if metas, err := f.snaps.List(); err != nil || len(metas) != 1 {
			t.Fatalf("the follower has snapshots %v, %v", metas, err)
		}
		if first, _ := f.log.FirstIndex(); first != 0 && first < 100 {
			t.Errorf("the follower's log begins at %d", first)
		}
		apply(10)
		agree()

		for _, n := range nodes {
			n.stop(n != f)
		}
		for _, n := range nodes {
			restart(n)
		}
		apply(10)
		agree()
		for _, n := range nodes {
			n.stop(false)
		}
	})
}
