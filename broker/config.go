package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/raftmq/raftmq/remoting"
)

// Config is a node's configuration, and the cluster's: one file does for all
// nodes, and NodeID says which of them this is. Keys that RocketMQ has carry its
// names and defaults. A zero value has the default given.
type Config struct {
	BrokerClusterName string `yaml:"brokerClusterName"` // DefaultCluster
	// NodeID is which of Nodes this process is.
	NodeID string `yaml:"nodeId"`
	// Nodes are all nodes of the cluster, by id.
	Nodes map[string]NodeConfig `yaml:"nodes"`
	// Groups are all broker groups of the cluster.
	Groups []GroupConfig `yaml:"groups"`
	// StorePathRootDir is where this node keeps its data. ./data/<nodeId>
	StorePathRootDir string `yaml:"storePathRootDir"`
	// BindAddress is the host that listeners bind to. Default: the host of each
	// address.
	BindAddress string `yaml:"bindAddress"`
	// NamesrvAddr lists name servers, "host:port;host:port". Default: those of
	// Nodes.
	NamesrvAddr string `yaml:"namesrvAddr"`

	// Storage.
	FlushDiskType           string   `yaml:"flushDiskType"`           // SYNC_FLUSH; or ASYNC_FLUSH
	MappedFileSizeCommitLog ByteSize `yaml:"mappedFileSizeCommitLog"` // 1 GiB; the same on all nodes, for ever
	FileReservedTime        int      `yaml:"fileReservedTime"`        // 72, hours
	DeleteWhen              string   `yaml:"deleteWhen"`              // 04, hours of the day, separated by ;
	DiskMaxUsedSpaceRatio   int      `yaml:"diskMaxUsedSpaceRatio"`   // 75, percent: expired segments go at any hour
	DiskSpaceCleanForcibly  int      `yaml:"diskSpaceCleanForciblyRatio"`
	DiskSpaceWarningLevel   int      `yaml:"diskSpaceWarningLevelRatio"`
	MaxMessageSize          ByteSize `yaml:"maxMessageSize"`           // 4 MiB, of a body
	AccessMessageInMemory   ByteSize `yaml:"accessMessageInMemoryMax"` // 256 MiB: the end of the CommitLog that is read without a check
	RaftSegmentSize         ByteSize `yaml:"raftSegmentSize"`          // 64 MiB
	RaftSnapshotBytes       ByteSize `yaml:"raftSnapshotBytes"`        // 512 MiB of raft log between snapshots
	RaftTrailingBytes       ByteSize `yaml:"raftTrailingBytes"`        // 64 MiB of raft log kept behind one
	DiskReserve             ByteSize `yaml:"diskReserve"`              // 256 MiB: with less free, writes are refused
	MaxOpenFiles            int      `yaml:"maxOpenFiles"`             // 512, for queues, per group

	// Replication.
	ElectionTimeout    Duration `yaml:"electionTimeout"`    // 300ms
	SyncFlushTimeout   Duration `yaml:"syncFlushTimeout"`   // 5s
	SlaveTimeout       Duration `yaml:"slaveTimeout"`       // 3s
	BrokerRole         string   `yaml:"brokerRole"`         // SYNC_MASTER; ASYNC_MASTER only for a group of one
	MaxPendingBytes    ByteSize `yaml:"maxPendingBytes"`    // 64 MiB of sends that are not committed, per group
	CatchUpBytesPerSec ByteSize `yaml:"catchUpBytesPerSec"` // 64 MiB
	DedupWindow        Duration `yaml:"dedupWindow"`        // 2m; a negative one switches it off
	DedupMax           int      `yaml:"dedupMax"`           // 1,000,000 sends

	// Topics and groups.
	AutoCreateTopicEnable        *bool `yaml:"autoCreateTopicEnable"`       // true
	DefaultTopicQueueNums        int32 `yaml:"defaultTopicQueueNums"`       // 8
	AutoCreateSubscriptionGroup  *bool `yaml:"autoCreateSubscriptionGroup"` // true
	SlaveReadEnable              *bool `yaml:"slaveReadEnable"`             // true: followers serve pulls
	LongPollingEnable            *bool `yaml:"longPollingEnable"`           // true
	NotifyConsumerIdsChanged     *bool `yaml:"notifyConsumerIdsChangedEnable"`
	TransferCountOnMessageInMem  int   `yaml:"maxTransferCountOnMessageInMemory"` // 32
	TransferBytesOnMessageInMem  int   `yaml:"maxTransferBytesOnMessageInMemory"` // 256 KiB
	TransferCountOnMessageInDisk int   `yaml:"maxTransferCountOnMessageInDisk"`   // 8
	TransferBytesOnMessageInDisk int   `yaml:"maxTransferBytesOnMessageInDisk"`   // 64 KiB
	MaxHeldPulls                 int   `yaml:"maxHeldPulls"`                      // 100,000 per group

	MessageDelayLevel string `yaml:"messageDelayLevel"` // 1s 5s 10s 30s 1m 2m 3m ... 2h

	// Connections.
	ServerChannelMaxIdle  int      `yaml:"serverChannelMaxIdleTimeSeconds"` // 120
	ServerMaxInFlight     int      `yaml:"serverMaxInFlight"`               // 16,384 requests per connection
	ServerMaxPendingBytes ByteSize `yaml:"serverMaxPendingBytes"`           // 8 MiB waiting for a client that does not read
	FrameMaxLength        ByteSize `yaml:"frameMaxLength"`                  // 16 MiB
	MaxConnections        int      `yaml:"maxConnections"`                  // 20,000 per group
	MaxBlockingRequests   int      `yaml:"maxBlockingRequests"`             // 256 that read the disk or wait for raft, per group

	// Name service.
	NamesrvHeartbeat Duration `yaml:"registerBrokerPeriod"` // 10s
}

// NodeConfig is where a node is reached.
type NodeConfig struct {
	Peer    string `yaml:"peer"`    // host:port for the other nodes
	Namesrv string `yaml:"namesrv"` // host:port of its name service; empty: it has none
}

// GroupConfig is a broker group: its name is what clients know as a broker name.
type GroupConfig struct {
	BrokerName string `yaml:"brokerName"`
	// Replicas are the nodes that have one, and where clients reach it.
	Replicas map[string]string `yaml:"replicas"`
}

// ByteSize is a number of bytes, written as one or with a unit: 64MiB, 1GiB.
type ByteSize int64

var byteUnits = []struct {
	name string
	n    int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *ByteSize) UnmarshalText(text []byte) error {
	s, unit := strings.TrimSpace(string(text)), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = strings.TrimSpace(rest), u.n
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > (1<<62)/unit {
		return fmt.Errorf("%q is no size: write 1073741824 or 1GiB", text)
	}
	*b = ByteSize(n * unit)
	return nil
}

func (b ByteSize) String() string {
	for _, u := range byteUnits {
		if int64(b) >= u.n && int64(b)%u.n == 0 {
			return fmt.Sprintf("%d%s", int64(b)/u.n, u.name)
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Duration is a time span, written as 300ms or 2m. A bare number is ms, as in
// RocketMQ's files.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	if ms, err := strconv.ParseInt(string(text), 10, 32); err == nil {
		*d = Duration(time.Duration(ms) * time.Millisecond)
		return nil
	}
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no time span: write 300ms, 5s, 2m, or a number of ms", text)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// ErrConfig is what an error in a configuration wraps.
var ErrConfig = errors.New("configuration")

// LoadConfig reads a YAML file. Unknown keys are errors.
func LoadConfig(name string) (Config, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var c Config
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && err != io.EOF {
		return Config{}, fmt.Errorf("%w: %s: %w", ErrConfig, name, err)
	}
	return c, nil
}

// Override sets single keys, as flags and environment variables give them. A key
// is a top-level one of the YAML file.
func (c *Config) Override(values map[string]string) error {
	v := reflect.ValueOf(c).Elem()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !overridable(v, key) {
			return fmt.Errorf("%w: there is no key %q to set to %q", ErrConfig, key, values[key])
		}
		d := yaml.NewDecoder(strings.NewReader(key + ": " + values[key]))
		d.KnownFields(true)
		if err := d.Decode(c); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrConfig, key, err)
		}
	}
	return nil
}

func overridable(v reflect.Value, key string) bool {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == key {
			return v.Field(i).Kind() != reflect.Map && v.Field(i).Kind() != reflect.Slice
		}
	}
	return false
}

// Keys lists the keys that Override knows.
func Keys() []string {
	var keys []string
	v := reflect.ValueOf(&Config{}).Elem()
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); overridable(v, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (c *Config) setDefaults() {
	yes := true
	orDefault(&c.BrokerClusterName, "DefaultCluster")
	orDefault(&c.StorePathRootDir, filepath.Join("data", c.NodeID))
	orDefault(&c.FlushDiskType, "SYNC_FLUSH")
	orDefault(&c.MappedFileSizeCommitLog, 1<<30)
	orDefault(&c.FileReservedTime, 72)
	orDefault(&c.DeleteWhen, "04")
	orDefault(&c.DiskMaxUsedSpaceRatio, 75)
	orDefault(&c.DiskSpaceCleanForcibly, 85)
	orDefault(&c.DiskSpaceWarningLevel, 90)
	orDefault(&c.MaxMessageSize, remoting.MaxMessageSize)
	orDefault(&c.AccessMessageInMemory, 256<<20)
	orDefault(&c.RaftSegmentSize, 64<<20)
	orDefault(&c.RaftSnapshotBytes, 512<<20)
	orDefault(&c.RaftTrailingBytes, 64<<20)
	orDefault(&c.DiskReserve, 256<<20)
	orDefault(&c.MaxOpenFiles, 512)
	orDefault(&c.ElectionTimeout, Duration(300*time.Millisecond))
	orDefault(&c.SyncFlushTimeout, Duration(5*time.Second))
	orDefault(&c.SlaveTimeout, Duration(3*time.Second))
	orDefault(&c.MaxPendingBytes, 64<<20)
	orDefault(&c.CatchUpBytesPerSec, 64<<20)
	orDefault(&c.DedupWindow, Duration(2*time.Minute))
	orDefault(&c.DedupMax, 1_000_000)
	orDefault(&c.AutoCreateTopicEnable, &yes)
	orDefault(&c.DefaultTopicQueueNums, 8)
	orDefault(&c.AutoCreateSubscriptionGroup, &yes)
	orDefault(&c.SlaveReadEnable, &yes)
	orDefault(&c.LongPollingEnable, &yes)
	orDefault(&c.NotifyConsumerIdsChanged, &yes)
	orDefault(&c.TransferCountOnMessageInMem, 32)
	orDefault(&c.TransferBytesOnMessageInMem, 256<<10)
	orDefault(&c.TransferCountOnMessageInDisk, 8)
	orDefault(&c.TransferBytesOnMessageInDisk, 64<<10)
	orDefault(&c.MaxHeldPulls, 100_000)
	orDefault(&c.MessageDelayLevel, defaultDelayLevels)
	orDefault(&c.ServerChannelMaxIdle, 120)
	orDefault(&c.ServerMaxInFlight, 16384)
	orDefault(&c.ServerMaxPendingBytes, 8<<20)
	orDefault(&c.FrameMaxLength, remoting.DefaultMaxFrame)
	orDefault(&c.MaxConnections, 20_000)
	orDefault(&c.MaxBlockingRequests, 256)
	orDefault(&c.NamesrvHeartbeat, Duration(10*time.Second))
	if c.NamesrvAddr == "" {
		var all []string
		for _, id := range slices.Sorted(maps.Keys(c.Nodes)) {
			if a := c.Nodes[id].Namesrv; a != "" {
				all = append(all, a)
			}
		}
		c.NamesrvAddr = strings.Join(all, ";")
	}
}

// validate looks for what is wrong or contradictory. It names the key.
func (c *Config) validate() error {
	bad := func(key, format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrConfig, key, fmt.Sprintf(format, args...))
	}
	if err := remoting.CheckGroup(c.BrokerClusterName); err != nil {
		return bad("brokerClusterName", "%v", err)
	}
	if c.NodeID == "" {
		return bad("nodeId", "which of the nodes is this? nodes has %v", slices.Sorted(maps.Keys(c.Nodes)))
	}
	if _, ok := c.Nodes[c.NodeID]; !ok {
		return bad("nodeId", "%q is not among nodes, which has %v", c.NodeID, slices.Sorted(maps.Keys(c.Nodes)))
	}
	used := map[string]string{}
	take := func(key, addr string) error {
		if _, err := hostPort(addr); err != nil {
			return bad(key, "%v", err)
		}
		if other, ok := used[addr]; ok {
			return bad(key, "%s is also %s", addr, other)
		}
		used[addr] = key
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(c.Nodes)) {
		n := c.Nodes[id]
		if remoting.CheckGroup(id) != nil || strings.Contains(id, "%") {
			return bad("nodes", "%q is no node id: letters, digits, _ and - only", id)
		}
		if err := take("nodes."+id+".peer", n.Peer); err != nil {
			return err
		}
		if n.Namesrv != "" {
			if err := take("nodes."+id+".namesrv", n.Namesrv); err != nil {
				return err
			}
		}
	}
	if len(c.Groups) == 0 {
		return bad("groups", "there is none")
	}
	names := map[string]bool{}
	for i, g := range c.Groups {
		key := fmt.Sprintf("groups[%d]", i)
		if err := remoting.CheckGroup(g.BrokerName); err != nil {
			return bad(key+".brokerName", "%v", err)
		}
		if names[g.BrokerName] {
			return bad(key+".brokerName", "%q is there twice", g.BrokerName)
		}
		names[g.BrokerName] = true
		if len(g.Replicas) == 0 {
			return bad(key+".replicas", "there is none")
		}
		for _, node := range slices.Sorted(maps.Keys(g.Replicas)) {
			if _, ok := c.Nodes[node]; !ok {
				return bad(key+".replicas", "%q is not among nodes, which has %v", node, slices.Sorted(maps.Keys(c.Nodes)))
			}
			if err := take(key+".replicas."+node, g.Replicas[node]); err != nil {
				return err
			}
		}
		switch {
		case c.BrokerRole == "ASYNC_MASTER" && len(g.Replicas) > 1:
			return bad("brokerRole", "ASYNC_MASTER contradicts %s of group %s: a group of several replicas always commits by quorum", key, g.BrokerName)
		case c.BrokerRole != "" && c.BrokerRole != "SYNC_MASTER" && c.BrokerRole != "ASYNC_MASTER":
			return bad("brokerRole", "%q: who is master is elected; want SYNC_MASTER, or ASYNC_MASTER for groups of one replica", c.BrokerRole)
		}
	}
	return c.validateLimits(bad)
}

func (c *Config) validateLimits(bad func(key, format string, args ...any) error) error {
	if c.FlushDiskType != "SYNC_FLUSH" && c.FlushDiskType != "ASYNC_FLUSH" {
		return bad("flushDiskType", "%q: want SYNC_FLUSH or ASYNC_FLUSH", c.FlushDiskType)
	}
	for _, hour := range strings.Split(c.DeleteWhen, ";") {
		if n, err := strconv.Atoi(hour); err != nil || n < 0 || n > 23 {
			return bad("deleteWhen", "%q: want hours of the day, 00 to 23, separated by ;", c.DeleteWhen)
		}
	}
	if !(0 < c.DiskMaxUsedSpaceRatio && c.DiskMaxUsedSpaceRatio <= c.DiskSpaceCleanForcibly &&
		c.DiskSpaceCleanForcibly <= c.DiskSpaceWarningLevel && c.DiskSpaceWarningLevel <= 100) {
		return bad("diskMaxUsedSpaceRatio", "want 0 < diskMaxUsedSpaceRatio %d <= diskSpaceCleanForciblyRatio %d <= diskSpaceWarningLevelRatio %d <= 100",
			c.DiskMaxUsedSpaceRatio, c.DiskSpaceCleanForcibly, c.DiskSpaceWarningLevel)
	}
	entry := c.maxEntry()
	for _, l := range []struct {
		key         string
		v, min, max int64
	}{
		{"mappedFileSizeCommitLog", int64(c.MappedFileSizeCommitLog), entry + 4096, 1 << 31},
		{"raftSegmentSize", int64(c.RaftSegmentSize), 2 * entry, 1 << 31},
		{"maxMessageSize", int64(c.MaxMessageSize), 1, int64(c.FrameMaxLength) - 256<<10},
		{"frameMaxLength", int64(c.FrameMaxLength), 1 << 20, 1 << 30},
		{"fileReservedTime", int64(c.FileReservedTime), 1, 1 << 20},
		{"raftSnapshotBytes", int64(c.RaftSnapshotBytes), 1 << 20, 1 << 40},
		{"raftTrailingBytes", int64(c.RaftTrailingBytes), 0, 1 << 40},
		{"maxOpenFiles", int64(c.MaxOpenFiles), 16, 1 << 20},
		{"electionTimeout", int64(c.ElectionTimeout), int64(50 * time.Millisecond), int64(time.Minute)},
		{"syncFlushTimeout", int64(c.SyncFlushTimeout), int64(time.Millisecond), int64(time.Minute)},
		{"slaveTimeout", int64(c.SlaveTimeout), int64(time.Millisecond), int64(time.Minute)},
		{"maxPendingBytes", int64(c.MaxPendingBytes), entry, 1 << 40},
		{"dedupMax", int64(c.DedupMax), 1, 100_000_000},
		{"defaultTopicQueueNums", int64(c.DefaultTopicQueueNums), 1, maxQueueNums},
		{"maxTransferCountOnMessageInMemory", int64(c.TransferCountOnMessageInMem), 1, 1 << 16},
		{"maxTransferCountOnMessageInDisk", int64(c.TransferCountOnMessageInDisk), 1, 1 << 16},
		{"maxTransferBytesOnMessageInMemory", int64(c.TransferBytesOnMessageInMem), 1, int64(c.FrameMaxLength) / 2},
		{"maxTransferBytesOnMessageInDisk", int64(c.TransferBytesOnMessageInDisk), 1, int64(c.FrameMaxLength) / 2},
		{"maxHeldPulls", int64(c.MaxHeldPulls), 1, 1 << 30},
		{"serverMaxInFlight", int64(c.ServerMaxInFlight), 1, 1 << 24},
		{"serverMaxPendingBytes", int64(c.ServerMaxPendingBytes), 1 << 16, 1 << 40},
		{"maxConnections", int64(c.MaxConnections), 1, 1 << 24},
		{"maxBlockingRequests", int64(c.MaxBlockingRequests), 1, 1 << 20},
		{"registerBrokerPeriod", int64(c.NamesrvHeartbeat), int64(100 * time.Millisecond), int64(time.Minute)},
		{"serverChannelMaxIdleTimeSeconds", int64(c.ServerChannelMaxIdle), 1, 86400},
	} {
		if l.v < l.min || l.v > l.max {
			return bad(l.key, "%d is not from %d to %d", l.v, l.min, l.max)
		}
	}
	return nil
}

// maxEntry is the largest raft entry: one message or batch with all that goes
// with it.
func (c *Config) maxEntry() int64 { return int64(c.MaxMessageSize) + 256<<10 }

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
		if ips, lookupErr := net.LookupIP(host); lookupErr == nil && len(ips) > 0 {
			ip, _ = netip.AddrFromSlice(ips[0])
			return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
		}
		return netip.AddrPort{}, fmt.Errorf("%q: %q is neither an address nor a name that resolves", addr, host)
	}
	if ip.IsUnspecified() {
		return netip.AddrPort{}, fmt.Errorf("%q: clients and peers can't connect to %s: give the address they see, and bindAddress to listen elsewhere", addr, host)
	}
	return netip.AddrPortFrom(ip, uint16(n)), nil
}

// properties is the configuration as RocketMQ's tools read it: key=value lines.
func (c *Config) properties(b *Broker) string {
	var out strings.Builder
	fmt.Fprintf(&out, "brokerName=%s\nbrokerId=%d\n", b.name, b.brokerID())
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		if !overridable(v, key) {
			continue
		}
		f := v.Field(i)
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		value := fmt.Sprint(f.Interface())
		if n, ok := f.Interface().(ByteSize); ok {
			value = strconv.FormatInt(int64(n), 10)
		}
		fmt.Fprintf(&out, "%s=%s\n", key, value)
	}
	return out.String()
}
