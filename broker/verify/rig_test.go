package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

const testSegment = 64 << 10

var testHost = netip.MustParseAddrPort("127.0.0.1:10911")

// testReplica is a replica's directory as a node makes it, without the node.
type testReplica struct {
	t      *testing.T
	dir    string
	log    *raftlog.Log
	stable *raftlog.Stable
	snaps  *raftlog.Snapshots
	store  *storage.Store
	state  *fsm.State
}

func newReplica(t *testing.T, node string) *testReplica {
	t.Helper()
	return newReplicaIn(t, node, 3)
}

// newReplicaIn is newReplica in a term.
func newReplicaIn(t *testing.T, node string, term uint64) *testReplica {
	t.Helper()
	r := &testReplica{t: t, dir: filepath.Join(t.TempDir(), node, "broker-a")}
	r.must(os.MkdirAll(filepath.Join(r.dir, "raft"), 0o750))
	id := raftgroup.Identity{Version: 1, Cluster: "c", Group: "broker-a", Node: node, Incarnation: "00112233ff"}
	text, err := json.Marshal(id)
	r.must(err)
	r.must(os.WriteFile(filepath.Join(r.dir, raftgroup.IdentityFile), text, 0o640))
	r.log, err = raftlog.Open(disk.OS(), r.path("raft/log"), raftlog.Options{Create: true, SegmentBytes: 1 << 20})
	r.must(err)
	r.stable, err = raftlog.OpenStable(r.path("raft/stable.db"), true)
	r.must(err)
	r.snaps, err = raftlog.OpenSnapshots(disk.OS(), r.path("raft/snapshots"), nil)
	r.must(err)
	r.store, err = storage.Open(storage.Options{
		FS: disk.OS(), Dir: r.path("store"), Cluster: id.Cluster, Group: id.Group, Replica: string(id.ServerID()),
		SegmentSize: testSegment, Reserve: 1, KeysOf: fsm.KeysOf,
		UnitOf: func(b []byte) (storage.QueueID, int64, storage.Unit, bool) { return r.state.Locate(b) },
	})
	r.must(err)
	r.state = fsm.New(r.store, testSegment)
	r.must(r.store.Resume(nil))
	r.must(r.stable.SetUint64([]byte("CurrentTerm"), term))
	return r
}

func (r *testReplica) path(name string) string { return filepath.Join(r.dir, name) }

func (r *testReplica) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// store appends entries to the raft log, and applies those up to an index.
func (r *testReplica) feed(upTo uint64, logs ...*raft.Log) {
	r.t.Helper()
	r.must(r.log.StoreLogs(logs))
	for _, l := range logs {
		if l.Type == raft.LogCommand && l.Index <= upTo {
			_, err := r.state.Apply([]fsm.Entry{{Index: l.Index, Term: l.Term, Data: l.Data}})
			r.must(err)
		}
	}
}

// snapshot takes one, and keeps ten entries before it.
func (r *testReplica) snapshot() {
	r.t.Helper()
	last, err := r.log.LastIndex()
	r.must(err)
	snap, err := r.state.Snapshot()
	r.must(err)
	r.must(r.store.Sync(snap.Files))
	sink, err := r.snaps.Create(1, last, r.log.LastTerm(), raft.Configuration{}, 1, nil)
	r.must(err)
	_, err = snap.WriteTo(sink)
	r.must(err)
	r.must(sink.Close())
	first, err := r.log.FirstIndex()
	r.must(err)
	r.must(r.log.DeleteRange(first, last-10))
}

func (r *testReplica) close() {
	r.t.Helper()
	r.must(r.store.Close())
	r.must(r.log.Close())
	r.must(r.stable.Close())
}

// message makes the command of some sends.
func message(t *testing.T, queue int32, bodies ...string) []byte {
	t.Helper()
	a := fsm.NewAppendCommand(nil, testHost)
	for i, body := range bodies {
		props := remoting.AppendProperty(nil, remoting.PropKeys, fmt.Sprint("k", i))
		props = remoting.AppendProperty(props, remoting.PropTags, "tag")
		b, err := remoting.AppendRecord(a.Begin(fsm.SendMeta{}), &remoting.Record{
			QueueID: queue, Topic: "T", Body: []byte(body), Properties: props, BornHost: testHost, StoreHost: testHost,
		})
		if err != nil {
			t.Fatal(err)
		}
		a.End(b, 1)
	}
	return a.Bytes()
}

func topic() remoting.TopicConfig {
	c := remoting.NewTopicConfig("T")
	c.ReadQueueNums, c.WriteQueueNums = 2, 2
	return c
}

// history is the raft log of a group: entry 1 is raft's own, 2 and 3 set up, the
// others are sends but for each tenth, which commits an offset.
func history(t *testing.T, n uint64) (logs []*raft.Log) {
	t.Helper()
	for i := uint64(1); i <= n; i++ {
		l := &raft.Log{Index: i, Term: 1 + i/50, Type: raft.LogCommand, AppendedAt: time.UnixMilli(int64(i))}
		switch {
		case i == 1:
			l.Type, l.Data = raft.LogConfiguration, []byte("peers")
		case i == 2:
			l.Data = fsm.Configure(fsm.Configuration{GroupID: "id", SegmentSize: testSegment, DedupSpan: 1000, DedupMax: 100})
		case i == 3:
			l.Data = fsm.PutTopic(topic(), false)
		case i%50 == 45:
			l.Data = fsm.TakeDigests()
		case i%10 == 0:
			l.Data = fsm.CommitOffsets([]fsm.Offset{{Group: "g", Topic: "T", Queue: 0, Offset: int64(i)}})
		default:
			var bodies []string
			for j := range 6 {
				bodies = append(bodies, strings.Repeat(fmt.Sprint(i, ":", j, " "), 40))
			}
			l.Data = message(t, int32(i%10%2), bodies...)
		}
		if l.Type == raft.LogCommand {
			fsm.Stamp(l.Data, 1_700_000_000_000+int64(i))
		}
		logs = append(logs, l)
	}
	return logs
}

// standard makes a replica that has the history of 100 entries, two snapshots
// and some entries behind them.
func standard(t *testing.T, node string) *testReplica {
	t.Helper()
	r, h := newReplica(t, node), history(t, 100)
	r.feed(100, h[:40]...)
	r.snapshot()
	r.feed(100, h[40:80]...)
	r.snapshot()
	r.feed(100, h[80:]...)
	return r
}

// clone copies a replica's directory: what is there, as it is.
func clone(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "broker-a")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func run(t *testing.T, dirs ...string) *Report {
	t.Helper()
	report, err := Run(Config{Dirs: dirs})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// problems are all that a report tells.
func problems(r *Report) (all []string) {
	for _, g := range r.Groups {
		all = append(all, g.Problems...)
		for _, rep := range g.Replicas {
			all = append(all, rep.Problems...)
		}
	}
	return all
}

// content is a checksum of each file below a directory.
func content(t *testing.T, dir string) string {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			fmt.Fprintln(&all, name)
			return err
		}
		b, err := os.ReadFile(name)
		fmt.Fprintf(&all, "%s %x\n", name, sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
