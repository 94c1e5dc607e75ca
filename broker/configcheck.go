package broker

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// badKey is an error in a configuration. It names the key.
func badKey(key, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrConfig, key, fmt.Sprintf(format, args...))
}

// validate looks for what is wrong or contradictory. It names the key.
func (c *Config) validate() error {
	addresses := map[string]string{}
	for _, check := range []func() error{
		func() error { return c.validateNodes(addresses) },
		func() error { return c.validateGroups(addresses) },
		c.validateTexts,
		c.validateLimits,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// takeAddress notes that a key has an address, which no other may have.
func takeAddress(taken map[string]string, key, addr string) error {
	resolved, err := hostPort(addr)
	if err != nil {
		return badKey(key, "%v", err)
	}
	// Two names of one host are one address.
	if other, ok := taken[resolved.String()]; ok {
		return badKey(key, "%s is also %s: each needs a port of its own", addr, other)
	}
	taken[resolved.String()] = key
	return nil
}

func (c *Config) validateNodes(addresses map[string]string) error {
	if err := remoting.CheckGroup(c.BrokerClusterName); err != nil {
		return badKey("brokerClusterName", "%v", err)
	}
	known := slices.Sorted(maps.Keys(c.Nodes))
	if c.NodeID == "" {
		return badKey("nodeId", "which of the nodes is this? --node or RAFTMQ_NODE_ID says it; nodes has %v", known)
	}
	if _, ok := c.Nodes[c.NodeID]; !ok {
		return badKey("nodeId", "%q is not among nodes, which has %v", c.NodeID, known)
	}
	for _, id := range known {
		n := c.Nodes[id]
		if remoting.CheckGroup(id) != nil || strings.ContainsAny(id, "%|") {
			return badKey("nodes", "%q is no node id: letters, digits, _ and - only", id)
		}
		if err := takeAddress(addresses, "nodes."+id+".peer", n.Peer); err != nil {
			return err
		}
		if n.Namesrv == "" {
			continue
		}
		if err := takeAddress(addresses, "nodes."+id+".namesrv", n.Namesrv); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) validateGroups(addresses map[string]string) error {
	if len(c.Groups) == 0 {
		return badKey("groups", "there is none")
	}
	names := map[string]bool{}
	for i, g := range c.Groups {
		key := fmt.Sprintf("groups[%d]", i)
		if err := remoting.CheckGroup(g.BrokerName); err != nil {
			return badKey(key+".brokerName", "%v", err)
		}
		switch {
		case names[g.BrokerName]:
			return badKey(key+".brokerName", "%q is there twice", g.BrokerName)
		case g.BrokerName == c.BrokerClusterName:
			return badKey(key+".brokerName", "%q is the cluster's name, and both are topics", g.BrokerName)
		case g.BrokerName == namesrvDir:
			return badKey(key+".brokerName", "%q is the name of a directory in storePathRootDir that is not a group's", g.BrokerName)
		case len(g.Replicas) == 0:
			return badKey(key+".replicas", "there is none")
		}
		names[g.BrokerName] = true
		for _, node := range slices.Sorted(maps.Keys(g.Replicas)) {
			if _, ok := c.Nodes[node]; !ok {
				return badKey(key+".replicas", "%q is not among nodes, which has %v", node, slices.Sorted(maps.Keys(c.Nodes)))
			}
			if err := takeAddress(addresses, key+".replicas."+node, g.Replicas[node]); err != nil {
				return err
			}
		}
		if _, ok := g.Replicas[g.PreferredLeader]; !ok && g.PreferredLeader != "" {
			return badKey(key+".preferredLeader", "%q has no replica of %s; these have: %v", g.PreferredLeader, g.BrokerName, slices.Sorted(maps.Keys(g.Replicas)))
		}
		switch {
		case c.BrokerRole == "ASYNC_MASTER" && len(g.Replicas) > 1:
			return badKey("brokerRole", "ASYNC_MASTER contradicts %s of group %s: a group of several replicas always commits by quorum", key, g.BrokerName)
		case c.BrokerRole != "" && c.BrokerRole != "SYNC_MASTER" && c.BrokerRole != "ASYNC_MASTER":
			return badKey("brokerRole", "%q: who is master is elected; want SYNC_MASTER, or ASYNC_MASTER for groups of one replica", c.BrokerRole)
		}
	}
	return nil
}

func (c *Config) validateTexts() error {
	if c.FlushDiskType != "SYNC_FLUSH" && c.FlushDiskType != "ASYNC_FLUSH" {
		return badKey("flushDiskType", "%q: want SYNC_FLUSH or ASYNC_FLUSH", c.FlushDiskType)
	}
	for _, hour := range strings.Split(c.DeleteWhen, ";") {
		if n, err := strconv.Atoi(hour); err != nil || n < 0 || n > 23 {
			return badKey("deleteWhen", "%q: want hours of the day, 00 to 23, separated by ;", c.DeleteWhen)
		}
	}
	if _, err := parseDelayLevels(c.MessageDelayLevel); err != nil {
		return badKey("messageDelayLevel", "%v", err)
	}
	if err := remoting.CheckTopic(c.MsgTraceTopicName); err != nil {
		return badKey("msgTraceTopicName", "%v", err)
	}
	if c.BindAddress != "" {
		if _, err := netip.ParseAddr(c.BindAddress); err != nil {
			return badKey("bindAddress", "%q is no address: want one of this machine without a port, like 0.0.0.0", c.BindAddress)
		}
	}
	for _, addr := range splitAddresses(c.NamesrvAddr) {
		if _, err := hostPort(addr); err != nil {
			return badKey("namesrvAddr", "%v", err)
		}
	}
	if !(0 < c.DiskMaxUsedSpaceRatio && c.DiskMaxUsedSpaceRatio <= c.DiskSpaceCleanForcibly &&
		c.DiskSpaceCleanForcibly <= c.DiskSpaceWarningLevel && c.DiskSpaceWarningLevel <= 100) {
		return badKey("diskMaxUsedSpaceRatio", "want 0 < diskMaxUsedSpaceRatio %d <= diskSpaceCleanForciblyRatio %d <= diskSpaceWarningLevelRatio %d <= 100",
			c.DiskMaxUsedSpaceRatio, c.DiskSpaceCleanForcibly, c.DiskSpaceWarningLevel)
	}
	return nil
}

// segmentUnit is what sizes of segment files are multiples of.
const segmentUnit = 4096

func (c *Config) validateLimits() error {
	for _, s := range []struct {
		key  string
		size ByteSize
	}{{"mappedFileSizeCommitLog", c.MappedFileSizeCommitLog}, {"raftSegmentSize", c.RaftSegmentSize}} {
		if s.size%segmentUnit != 0 {
			return badKey(s.key, "%d is not a multiple of %d", int64(s.size), segmentUnit)
		}
	}
	entry := c.maxEntry()
	bytes := func(key string, v ByteSize, from, to int64, why string) limit {
		return limit{key, int64(v), from, to, why}
	}
	count := func(key string, v int, from, to int64) limit { return limit{key, int64(v), from, to, ""} }
	span := func(key string, v Duration, from, to time.Duration) limit {
		return limit{key, int64(v / Duration(time.Millisecond)), from.Milliseconds(), to.Milliseconds(), "in ms"}
	}
	const large = 1 << 40
	for _, l := range []limit{
		bytes("frameMaxLength", c.FrameMaxLength, 1<<20, 1<<30, ""),
		bytes("maxMessageSize", c.MaxMessageSize, 1, int64(c.FrameMaxLength)-256<<10, "it has to fit in frameMaxLength"),
		bytes("mappedFileSizeCommitLog", c.MappedFileSizeCommitLog, entry+segmentUnit, 1<<31, "a segment has to hold a message of maxMessageSize"),
		bytes("raftSegmentSize", c.RaftSegmentSize, 2*entry, 1<<31, "a segment has to hold two messages of maxMessageSize"),
		bytes("raftSnapshotBytes", c.RaftSnapshotBytes, 1<<20, large, ""),
		bytes("raftTrailingBytes", c.RaftTrailingBytes, 1, large, ""),
		bytes("accessMessageInMemoryMax", c.AccessMessageInMemory, 1, large, ""),
		bytes("diskReserve", c.DiskReserve, 1, large, ""),
		bytes("maxPendingBytes", c.MaxPendingBytes, entry, large, "a message of maxMessageSize has to go through"),
		bytes("catchUpBytesPerSec", c.CatchUpBytesPerSec, 1<<10, large, ""),
		bytes("scrubBytesPerSec", c.ScrubBytesPerSec, 1<<10, large, ""),
		bytes("serverMaxPendingBytes", c.ServerMaxPendingBytes, 1<<16, large, ""),
		count("fileReservedTime", c.FileReservedTime, 1, 1<<20),
		count("timerMaxDelaySec", c.TimerMaxDelaySec, 1, 366*24*60*60),
		count("maxOpenFiles", c.MaxOpenFiles, 16, 1<<20),
		count("dedupMax", c.DedupMax, 1, 100_000_000),
		count("defaultTopicQueueNums", int(c.DefaultTopicQueueNums), 1, maxQueueNums),
		count("maxTransferCountOnMessageInMemory", c.TransferCountOnMessageInMem, 1, 1<<16),
		count("maxTransferCountOnMessageInDisk", c.TransferCountOnMessageInDisk, 1, 1<<16),
		count("maxTransferBytesOnMessageInMemory", c.TransferBytesOnMessageInMem, 1, int64(c.FrameMaxLength)/2),
		count("maxTransferBytesOnMessageInDisk", c.TransferBytesOnMessageInDisk, 1, int64(c.FrameMaxLength)/2),
		count("maxHeldPulls", c.MaxHeldPulls, 1, 1<<30),
		count("serverMaxInFlight", c.ServerMaxInFlight, 1, 1<<24),
		count("serverChannelMaxIdleTimeSeconds", c.ServerChannelMaxIdle, 1, 86400),
		count("maxConnections", c.MaxConnections, 1, 1<<24),
		count("maxBlockingRequests", c.MaxBlockingRequests, 1, 1<<16),
		span("electionTimeout", c.ElectionTimeout, 50*time.Millisecond, time.Minute),
		span("syncFlushTimeout", c.SyncFlushTimeout, time.Millisecond, time.Minute),
		span("diskHangTimeout", c.DiskHangTimeout, 100*time.Millisecond, time.Hour),
		span("diskSlowTime", c.DiskSlowTime, time.Millisecond, time.Hour),
		span("slaveTimeout", c.SlaveTimeout, time.Millisecond, time.Minute),
		count("transactionCheckMax", c.TransactionCheckMax, 1, 10_000),
		span("transactionTimeOut", c.TransactionTimeout, time.Millisecond, 24*time.Hour),
		span("transactionCheckInterval", c.TransactionCheckInterval, time.Millisecond, 24*time.Hour),
		span("promoteAfter", c.PromoteAfter, time.Millisecond, 24*time.Hour),
		span("leaderBalanceDelay", c.LeaderBalanceDelay, 100*time.Millisecond, time.Hour),
		span("shutdownDrainTimeout", c.ShutdownDrainTimeout, time.Millisecond, 10*time.Minute),
		span("dedupWindow", max(0, c.DedupWindow), 0, 24*time.Hour),
		span("rebalanceLockMaxLiveTime", c.RebalanceLockMaxLiveTime, time.Second, time.Hour),
		span("scrubInterval", c.ScrubInterval, time.Minute, 365*24*time.Hour),
		span("registerBrokerPeriod", c.NamesrvHeartbeat, 100*time.Millisecond, time.Minute),
	} {
		if err := l.check(); err != nil {
			return err
		}
	}
	return nil
}

// limit is a number that has to lie within bounds.
type limit struct {
	key         string
	v, min, max int64
	why         string
}

func (l limit) check() error {
	if l.v >= l.min && l.v <= l.max {
		return nil
	}
	if l.why != "" {
		return badKey(l.key, "%d is not from %d to %d: %s", l.v, l.min, l.max, l.why)
	}
	return badKey(l.key, "%d is not from %d to %d", l.v, l.min, l.max)
}

// maxEntry is the largest raft entry: one message or batch with all that goes
// with it.
func (c *Config) maxEntry() int64 { return int64(c.MaxMessageSize) + 256<<10 }

// splitAddresses splits "host:port;host:port".
func splitAddresses(list string) []string {
	var all []string
	for a := range strings.SplitSeq(list, ";") {
		if a = strings.TrimSpace(a); a != "" {
			all = append(all, a)
		}
	}
	return all
}

// hostPort resolves an address that others connect to. Of a name's addresses an
// IPv4 one is taken if there is any: Node clients can read no other.
func hostPort(addr string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not host:port", addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q has no port from 1 to 65535", addr)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		ips, err := net.LookupIP(host)
		if err != nil || len(ips) == 0 {
			return netip.AddrPort{}, fmt.Errorf("%q: %q is neither an address nor a name that resolves", addr, host)
		}
		i := max(0, slices.IndexFunc(ips, func(ip net.IP) bool { return ip.To4() != nil }))
		ip, _ = netip.AddrFromSlice(ips[i])
		return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
	}
	if ip.IsUnspecified() {
		return netip.AddrPort{}, fmt.Errorf("%q: clients and peers can't connect to %s: give the address they see, and bindAddress to listen elsewhere", addr, host)
	}
	return netip.AddrPortFrom(ip.Unmap().WithZone(""), uint16(n)), nil
}
