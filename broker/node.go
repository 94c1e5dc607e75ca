package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/broker/namesrv"
	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/remoting"
)

// namesrvDir is what of StorePathRootDir is the name service's. Beside it each
// group has a directory.
const namesrvDir = "namesrv"

// Node is one raftmq process.
type Node struct {
	cfg     Config
	logger  hclog.Logger
	port    *raftgroup.Port
	names   *NameServer // nil if the node has none
	brokers []*Broker
	delays  []time.Duration // the delay levels
	uniq    *remoting.UniqKeys
	once    sync.Once
	closed  error
}

// Open starts a node. It does not wait for its groups to have leaders. Close it.
func Open(cfg Config, logger hclog.Logger) (_ *Node, err error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	n := &Node{cfg: cfg, logger: logger.With("node", cfg.NodeID)}
	if n.delays, err = parseDelayLevels(cfg.MessageDelayLevel); err != nil {
		return nil, badKey("messageDelayLevel", "%v", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close(context.Background()))
		}
	}()
	if err := os.MkdirAll(cfg.StorePathRootDir, 0o750); err != nil {
		return nil, badKey("storePathRootDir", "%v", err)
	}
	if err := n.listen(); err != nil {
		return nil, err
	}
	n.uniq = remoting.NewUniqKeys(addrPort(n.port.Addr()).Addr())
	for i := range cfg.Groups {
		if _, ok := cfg.Groups[i].Replicas[cfg.NodeID]; !ok {
			continue
		}
		b, err := openBroker(n, &cfg.Groups[i])
		if err != nil {
			return nil, err
		}
		n.brokers = append(n.brokers, b)
	}
	if len(n.brokers) == 0 {
		n.logger.Warn("no group has a replica on this node")
	}
	return n, nil
}

// listen opens the peer port and the name service.
func (n *Node) listen() error {
	self := n.cfg.Nodes[n.cfg.NodeID]
	l, err := n.listener(self.Peer)
	if err != nil {
		return fmt.Errorf("nodes.%s.peer: %w", n.cfg.NodeID, err)
	}
	n.port = raftgroup.NewPort(raftgroup.PortConfig{
		Cluster: n.cfg.BrokerClusterName, Listener: l, Logger: n.logger.Named("peers"),
	})
	if self.Namesrv == "" {
		return nil
	}
	if l, err = n.listener(self.Namesrv); err != nil {
		return fmt.Errorf("nodes.%s.namesrv: %w", n.cfg.NodeID, err)
	}
	n.names, err = serveNames(l, namesrv.Config{
		Expect: n.expected(), Logger: n.logger.Named("namesrv"),
		KVPath: filepath.Join(n.cfg.StorePathRootDir, namesrvDir, "kvConfig.json"),
	})
	return err
}

// expected are the brokers that will register: the name service is ready when it
// has heard of all of them.
func (n *Node) expected() []namesrv.Broker {
	var all []namesrv.Broker
	for _, g := range n.cfg.Groups {
		for _, node := range slices.Sorted(maps.Keys(g.Replicas)) {
			all = append(all, namesrv.Broker{Name: g.BrokerName, Address: g.Replicas[node]})
		}
	}
	return all
}

// listener binds an address of this node, or its port on BindAddress.
func (n *Node) listener(addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if n.cfg.BindAddress != "" {
		host = n.cfg.BindAddress
	}
	return net.Listen("tcp", net.JoinHostPort(host, port))
}

// Brokers are the groups this node has replicas of.
func (n *Node) Brokers() []*Broker { return n.brokers }

// closeGrace is how long closing may go on when its time is up, before it is given
// up: a disk that hangs would make it wait for ever.
const closeGrace = 5 * time.Second

// ErrNotClosed is wrapped by what Close returns if it was given up. The process has
// to end: goroutines of the node wait for a disk still. Nothing that was
// acknowledged is lost by that.
var ErrNotClosed = errors.New("the node is not closed")

// Close stops the node: it gives its leaderships to other replicas, answers what
// is on its way, and closes, as far as ctx gives it time.
func (n *Node) Close(ctx context.Context) error {
	n.once.Do(func() {
		closed := make(chan error, 1)
		go func() { closed <- n.close(ctx) }()
		select {
		case n.closed = <-closed:
			return
		case <-ctx.Done():
		}
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		select {
		case n.closed = <-closed:
		case <-grace.C:
			n.closed = n.stuck()
		}
	})
	return n.closed
}

// stuck says what keeps the node from closing.
func (n *Node) stuck() error {
	errs := []error{fmt.Errorf("%w: it waits for a disk, or for what uses one; nothing that was acknowledged is lost", ErrNotClosed)}
	for _, b := range n.brokers {
		if what := b.group.DiskHung(closeGrace); what != "" {
			errs = append(errs, fmt.Errorf("group %s: %s", b.name, what))
		}
	}
	return errors.Join(errs...)
}

func (n *Node) close(ctx context.Context) error {
	var group sync.WaitGroup
	errs := make([]error, len(n.brokers))
	for i, b := range n.brokers {
		group.Go(func() { errs[i] = b.close(ctx) })
	}
	group.Wait()
	err := errors.Join(errs...)
	if n.names != nil {
		err = errors.Join(err, n.names.Close(ctx))
	}
	if n.port != nil {
		err = errors.Join(err, n.port.Close())
	}
	return err
}
