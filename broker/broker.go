package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// Broker is this node's replica of one broker group, as clients see it. While
// the replica leads the group it is the master, else a slave that can be read.
type Broker struct {
	node       *Node
	cfg        *Config
	name       string         // of the group
	addr       netip.AddrPort // of this replica, for clients
	storeHost  string         // addr as the state machine has it
	configured []fsm.Member   // of the group, by the configuration; see members
	logger     hclog.Logger
	started    time.Time

	group     *raftgroup.Group
	server    *remoting.Server
	sessions  sessions
	repeats   repeats
	workers   *workers // for what waits for raft
	readers   *workers // for what reads the disk
	askers    *workers // for what waits for other clients
	holds     *holds
	filters   filters
	pulling   pulling
	clients   *registry
	relaying  *workers // for what waits for the leader
	borrowing *workers // for what asks other replicas
	links     links
	offsets   *offsetWriter
	leases    *leases
	leading   *leading
	checks    *checkback
	wheel     *wheel
	names     *registration
	counters  counters
	usage     usage
	draining  atomic.Bool // see leave

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	once    sync.Once
	closed  error
}

func openBroker(n *Node, g *GroupConfig) (_ *Broker, err error) {
	cfg := &n.cfg
	addr, err := hostPort(g.Replicas[cfg.NodeID])
	if err != nil {
		return nil, err
	}
	nodes := slices.Sorted(maps.Keys(g.Replicas))
	b := &Broker{
		node: n, cfg: cfg, name: g.BrokerName, addr: addr, configured: configuredMembers(g),
		logger: n.logger.With("group", g.BrokerName), started: time.Now(),
		workers: newWorkers(cfg.MaxBlockingRequests, requestTimeout), readers: newWorkers(cfg.MaxBlockingRequests, requestTimeout),
		askers:  newWorkers(cfg.MaxBlockingRequests, clientTimeout),
		pulling: pulling{limit: int64(cfg.ServerMaxPendingBytes)},
		filters: filters{enabled: cfg.EnablePropertyFilter},
		usage:   usage{epoch: time.Now()},
	}
	host, err := addr.MarshalBinary()
	if err != nil {
		return nil, err
	}
	b.storeHost = string(host)
	b.relaying = newWorkers(cfg.MaxBlockingRequests, requestTimeout)
	b.borrowing = newWorkers(cfg.MaxBlockingRequests, requestTimeout)
	b.links.maxFrame = int(cfg.FrameMaxLength)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.holds = newHolds(b)
	b.clients = newRegistry(b)
	b.offsets = newOffsetWriter(b)
	b.leases = newLeases(b)
	b.leading = newLeading(b)
	b.checks = &checkback{b: b}
	b.wheel = newWheel(b)
	if b.names, err = newRegistration(b); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close(context.Background()))
		}
	}()
	l, err := n.listener(g.Replicas[cfg.NodeID])
	if err != nil {
		return nil, fmt.Errorf("group %s: replicas.%s: %w", b.name, cfg.NodeID, err)
	}
	group, err := raftgroup.Open(b.groupConfig(g, nodes))
	switch {
	case errors.Is(err, storage.ErrForeign):
		// Whose it is was looked at before, so it is the size.
		err = badKey("mappedFileSizeCommitLog", "it is the same for as long as a group lives: %v", err)
	case errors.Is(err, disk.ErrLocked):
		err = fmt.Errorf("another process has the data directory: end it, or give this node another storePathRootDir: %w", err)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	b.group = group
	for _, run := range []func(){b.holds.run, b.clients.run, b.offsets.run, b.leading.run, b.leading.retain.run, b.wheel.run, b.checks.run, b.names.run, b.sampleRates} {
		b.running.Go(run)
	}
	b.serve(l)
	return b, nil
}

func (b *Broker) groupConfig(g *GroupConfig, nodes []string) raftgroup.Config {
	cfg := b.cfg
	rc := raftgroup.Config{
		Cluster: cfg.BrokerClusterName, Name: b.name, Node: cfg.NodeID,
		ClientAddress:   b.addr,
		Dir:             filepath.Join(cfg.StorePathRootDir, b.name),
		ListenFirst:     cfg.listenFirst,
		Exists:          g.Bootstrap != nil && !*g.Bootstrap,
		Port:            b.node.port,
		Election:        time.Duration(cfg.ElectionTimeout),
		SegmentSize:     int64(cfg.MappedFileSizeCommitLog),
		RaftSegmentSize: int64(cfg.RaftSegmentSize),
		SnapshotBytes:   int64(cfg.RaftSnapshotBytes),
		TrailingBytes:   int64(cfg.RaftTrailingBytes),
		DedupSpan:       time.Duration(cfg.DedupWindow),
		DedupMax:        cfg.DedupMax,
		MaxEntry:        int(cfg.maxEntry()),
		MaxPending:      int(cfg.MaxPendingBytes),
		SlaveTimeout:    time.Duration(cfg.SlaveTimeout),
		FlushTimeout:    time.Duration(cfg.SyncFlushTimeout),
		CatchUpRate:     int64(cfg.CatchUpBytesPerSec),
		PromoteAfter:    time.Duration(cfg.PromoteAfter),
		Preference:      cfg.preference(g),
		BalanceAfter:    time.Duration(cfg.LeaderBalanceDelay),
		ScrubRate:       int64(cfg.ScrubBytesPerSec),
		ScrubInterval:   time.Duration(cfg.ScrubInterval),
		DiskHang:        time.Duration(cfg.DiskHangTimeout),
		DiskSlow:        time.Duration(cfg.DiskSlowTime),
		Full:            b.leading.retain.refuses,
		Storage: storage.Options{
			MaxOpenFiles: cfg.MaxOpenFiles, HotBytes: int64(cfg.AccessMessageInMemory), Reserve: int64(cfg.DiskReserve),
		},
		Logger: b.node.logger,
		Now:    cfg.now,
		Events: raftgroup.Events{
			Leadership: func(raftgroup.Leadership) { b.leading.wake(); b.wheel.wake(); b.names.wake() },
			Appended:   b.appended,
			Changed:    func() { b.names.wake(); b.holds.changed() },
			Failed:     func(error) { b.names.wake() },
			Fenced:     func() { b.names.wake() },
		},
	}
	if !*cfg.LeaderBalance {
		rc.BalanceAfter = -1
	}
	if cfg.FlushDiskType == "ASYNC_FLUSH" {
		rc.Flush = raftlog.AsyncFlush
	}
	if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		rc.BootID = strings.TrimSpace(string(id))
	}
	for _, node := range nodes {
		rc.Peers = append(rc.Peers, raftgroup.Peer{Node: node, Address: cfg.Nodes[node].Peer})
	}
	return rc
}

// serve accepts clients.
func (b *Broker) serve(l net.Listener) {
	b.server = &remoting.Server{
		Handler: b,
		Conn: remoting.ConnConfig{
			MaxFrame:    int(b.cfg.FrameMaxLength),
			MaxInFlight: b.cfg.ServerMaxInFlight,
			MaxPending:  int(b.cfg.ServerMaxPendingBytes),
			IdleTimeout: time.Duration(b.cfg.ServerChannelMaxIdle) * time.Second,
			OnClose:     b.connectionClosed,
			// It leads no more, and another one will: who passes requests on tries again.
			DrainFields: remoting.Fields{{Key: extNotLeading, Value: "true"}},
		},
		OnAccept: func(err error) {
			if err != nil {
				b.logger.Error("connections can't be accepted", "error", err)
			}
		},
	}
	b.running.Go(func() {
		if err := b.server.Serve(limitListener(l, b.cfg.MaxConnections, b.logger)); !errors.Is(err, remoting.ErrClosed) {
			b.logger.Error("no connections are accepted any more", "error", err)
		}
	})
}

func (b *Broker) connectionClosed(c *remoting.Conn, err error) {
	s := b.sessions.of(c)
	b.sessions.end(c)
	b.holds.drop(s)
	b.clients.disconnected(s)
	b.logger.Debug("connection closed", "client", c.RemoteAddr(), "because", err)
}

// appended wakes the pulls and the schedule that wait for these queues.
func (b *Broker) appended(queues []*storage.Queue) {
	b.holds.wake(queues)
	for _, q := range queues {
		switch q.ID().Topic {
		case remoting.TopicSchedule:
			b.leading.wake()
		case remoting.TopicTimer:
			b.wheel.wake()
		}
	}
}

// Name is the group's name; Group its replica here.
func (b *Broker) Name() string            { return b.name }
func (b *Broker) Group() *raftgroup.Group { return b.group }

// Addr is where clients reach this replica.
func (b *Broker) Addr() netip.AddrPort { return b.addr }

// leads says whether this replica is the master.
func (b *Broker) leads() bool { return b.group.Leadership().Self }

// brokerID is the id that clients know this replica by.
func (b *Broker) brokerID() int64 {
	if b.leads() {
		return 0
	}
	return b.slaveID()
}

// close leaves the group's clients to other replicas, answers what is on its way
// and stops.
func (b *Broker) close(ctx context.Context) error {
	b.once.Do(func() {
		var err error
		if b.server != nil {
			b.leave(ctx)
			// Its error is ctx's: what was not answered in time is cut off.
			b.holds.release()
			b.server.Shutdown(ctx)
		} else {
			b.names.leave(ctx)
		}
		b.cancel()
		b.links.close()
		b.relaying.close()
		b.borrowing.close()
		b.workers.close()
		b.readers.close()
		b.askers.close()
		b.running.Wait()
		if b.group != nil {
			err = b.group.Close()
		}
		b.closed = err
	})
	return b.closed
}
