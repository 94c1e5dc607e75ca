package raftgroup

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// Peer is a node that hosts a replica of a group.
type Peer struct {
	Node    string // its id
	Address string // host:port of its peer port
}

// Config is what a Group needs to know. Durations, sizes and counts that are
// zero have the default given.
type Config struct {
	Cluster string // name of the cluster
	Name    string // name of the group: the broker's name
	Node    string // id of this node
	// Peers are the nodes the group begins with, this one among them. They
	// matter once, when the group is made.
	Peers []Peer
	// Exists: the group was made long ago. A replica without data never makes it.
	Exists bool
	// ClientAddress is where clients reach this replica: the store host of what
	// it stores while it leads.
	ClientAddress netip.AddrPort
	// Dir is the replica's data directory.
	Dir  string
	FS   disk.FS // default: the machine's
	Port *Port
	// Stable keeps raft's term and vote. Default: a bolt file in Dir. Tests give
	// their own.
	Stable raft.StableStore

	Flush    raftlog.FlushMode
	BootID   string        // needed for AsyncFlush
	Election time.Duration // raft's heartbeat and election timeout, 300 ms
	// ListenFirst is how long a group is not made: members of it that are there would
	// look for this node's replica meanwhile. 3 times Election; negative: not at all.
	ListenFirst     time.Duration
	SegmentSize     int64         // of the CommitLog, when the group is made; 1 GiB
	RaftSegmentSize int64         // of the raft log, 64 MiB
	SnapshotBytes   int64         // raft log bytes between snapshots, 512 MiB
	TrailingBytes   int64         // raft log bytes kept behind a snapshot, 64 MiB
	DedupSpan       time.Duration // how long a send is remembered, 2 min; negative: not at all
	DedupMax        int           // how many are, 1,000,000
	BatchBytes      int           // target size of an entry of sends, 128 KiB
	MaxEntry        int           // largest entry, 8 MiB
	MaxPending      int           // bytes of sends accepted and not committed, 64 MiB
	MaxInflight     int           // entries of sends on their way, 8
	SlaveTimeout    time.Duration // until a send's quorum is late, 3 s
	FlushTimeout    time.Duration // until a send's disk is late, 5 s
	PromoteAfter    time.Duration // how long a new member is well before it gets a vote, 10 s
	CatchUpRate     int64         // bytes/s fetched from peers, and given to them, 64 MiB; negative: no bound
	ScrubRate       int64         // bytes/s read to look for damage, 16 MiB; negative: no bound
	ScrubInterval   time.Duration // between two such passes, 24 h; negative: only when asked
	// Preference are nodes in the order in which they are to lead. Leadership goes
	// back to the first once it has been fit for BalanceAfter.
	Preference   []string
	BalanceAfter time.Duration // 10 s; negative: it stays where it is
	DiskHang     time.Duration // an operation that takes longer fences the replica, 1 s
	DiskSlow     time.Duration // if entries take longer to store the replica should not lead, 200 ms
	// Full says why the node takes no messages for want of room, besides what the
	// store says. May be nil.
	Full func() error

	Storage storage.Options // FS, Dir and what the group sets itself excepted
	Logger  hclog.Logger
	Events  Events

	// Now is the machine's monotonic clock, Wall the one that shows the time of day
	// and may be wrong: time.Now both.
	Now, Wall func() time.Time

	guard guards
}

// Events is what a group tells its owner. The functions may be called from any
// goroutine and must not block. Any may be nil.
type Events struct {
	// Leadership: who leads has changed, as this replica knows.
	Leadership func(Leadership)
	// Appended: these queues have new messages. The slice is not to be kept.
	Appended func([]*storage.Queue)
	// Changed: topics or groups have changed, or all of it by a snapshot.
	Changed func()
	// Failed: the replica has stopped for good. Reads of what it holds go on.
	Failed func(error)
	// Fenced: the replica was fenced because its disk hangs, or is no more.
	Fenced func()
}

// Leadership says who leads a group.
type Leadership struct {
	Term uint64
	// Self: this replica leads, and has applied an entry of its own term: what it
	// says is current.
	Self bool
	// Node and Address of the leader; empty while unknown.
	Node    string
	Address string
}

func (c *Config) validate() error {
	setDefault(&c.Election, 300*time.Millisecond)
	setDefault(&c.ListenFirst, 3*c.Election)
	setDefault(&c.SegmentSize, 1<<30)
	setDefault(&c.RaftSegmentSize, 64<<20)
	setDefault(&c.SnapshotBytes, 512<<20)
	setDefault(&c.TrailingBytes, 64<<20)
	setDefault(&c.DedupSpan, 2*time.Minute)
	setDefault(&c.DedupMax, 1_000_000)
	setDefault(&c.BatchBytes, 128<<10)
	setDefault(&c.MaxEntry, 8<<20)
	setDefault(&c.MaxPending, 64<<20)
	setDefault(&c.MaxInflight, 8)
	setDefault(&c.SlaveTimeout, 3*time.Second)
	setDefault(&c.FlushTimeout, 5*time.Second)
	setDefault(&c.CatchUpRate, 64<<20)
	setDefault(&c.ScrubRate, 16<<20)
	setDefault(&c.ScrubInterval, 24*time.Hour)
	setDefault(&c.BalanceAfter, 10*time.Second)
	setDefault(&c.PromoteAfter, 10*time.Second)
	setDefault(&c.DiskHang, time.Second)
	setDefault(&c.DiskSlow, 200*time.Millisecond)
	if c.FS == nil {
		c.FS = disk.OS()
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Wall == nil {
		c.Wall = c.Now
	}
	switch {
	case c.Cluster == "" || c.Name == "" || c.Node == "" || c.Dir == "":
		return errors.New("raftgroup: cluster, group, node and directory must be named")
	case !c.ClientAddress.IsValid():
		return fmt.Errorf("raftgroup: group %s: client address %v is not one", c.Name, c.ClientAddress)
	case int64(c.MaxEntry) > c.RaftSegmentSize/2:
		return fmt.Errorf("raftgroup: group %s: entries of %d bytes need raft log segments of at least twice that, not %d", c.Name, c.MaxEntry, c.RaftSegmentSize)
	case int64(c.MaxEntry) > c.SegmentSize:
		return fmt.Errorf("raftgroup: group %s: entries of %d bytes do not fit in CommitLog segments of %d", c.Name, c.MaxEntry, c.SegmentSize)
	}
	seen := map[string]bool{}
	for _, p := range c.Peers {
		if p.Node == "" || p.Address == "" || seen[p.Node] {
			return fmt.Errorf("raftgroup: group %s: peer %q at %q is incomplete or named twice", c.Name, p.Node, p.Address)
		}
		seen[p.Node] = true
	}
	if !seen[c.Node] {
		return fmt.Errorf("raftgroup: group %s: this node, %s, is not among its peers", c.Name, c.Node)
	}
	return nil
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}
