package broker

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
	DiskHangTimeout         Duration `yaml:"diskHangTimeout"`          // 1s: a replica whose disk does not answer for as long is fenced
	DiskSlowTime            Duration `yaml:"diskSlowTime"`             // 200ms: a leader that takes as long to store an entry hands over
	MaxOpenFiles            int      `yaml:"maxOpenFiles"`             // 512, for queues, per group

	// Replication.
	ElectionTimeout    Duration `yaml:"electionTimeout"`    // 300ms
	SyncFlushTimeout   Duration `yaml:"syncFlushTimeout"`   // 5s
	SlaveTimeout       Duration `yaml:"slaveTimeout"`       // 3s
	BrokerRole         string   `yaml:"brokerRole"`         // SYNC_MASTER; ASYNC_MASTER only for a group of one
	MaxPendingBytes    ByteSize `yaml:"maxPendingBytes"`    // 64 MiB of sends that are not committed, per group
	CatchUpBytesPerSec ByteSize `yaml:"catchUpBytesPerSec"` // 64 MiB
	ScrubBytesPerSec   ByteSize `yaml:"scrubBytesPerSec"`   // 16 MiB: how fast the disk is searched for damage
	ScrubInterval      Duration `yaml:"scrubInterval"`      // 24h: from the end of one such search to the next
	PromoteAfter       Duration `yaml:"promoteAfter"`       // 10s that a new member has to be well before it votes
	DedupWindow        Duration `yaml:"dedupWindow"`        // 2m; a negative one switches it off
	DedupMax           int      `yaml:"dedupMax"`           // 1,000,000 sends
	// LeaderBalance: a group's leadership goes back to its preferred leader when that
	// has been fit for LeaderBalanceDelay. true, 10s
	LeaderBalance      *bool    `yaml:"leaderBalance"`
	LeaderBalanceDelay Duration `yaml:"leaderBalanceDelay"`
	// ShutdownDrainTimeout is how long a replica that is stopped goes on at most while
	// clients use it. 35s: they look at the routes every 30 s
	ShutdownDrainTimeout Duration `yaml:"shutdownDrainTimeout"`

	// Topics and groups.
	AutoCreateTopicEnable        *bool `yaml:"autoCreateTopicEnable"`       // true
	DefaultTopicQueueNums        int32 `yaml:"defaultTopicQueueNums"`       // 8
	AutoCreateSubscriptionGroup  *bool `yaml:"autoCreateSubscriptionGroup"` // true
	ForwardToLeader              *bool `yaml:"forwardToLeader"`             // true: followers pass on what only the leader can answer
	SlaveReadEnable              *bool `yaml:"slaveReadEnable"`             // true: followers serve pulls
	LongPollingEnable            *bool `yaml:"longPollingEnable"`           // true
	UseServerSideResetOffset     *bool `yaml:"useServerSideResetOffset"`    // true
	StoreReplyMessageEnable      *bool `yaml:"storeReplyMessageEnable"`     // true: replies are kept in the reply topic, too
	TraceTopicEnable             bool  `yaml:"traceTopicEnable"`            // false: message traces have no topic of their own
	EnablePropertyFilter         bool  `yaml:"enablePropertyFilter"`        // false: SQL92 expressions are refused
	NotifyConsumerIdsChanged     *bool `yaml:"notifyConsumerIdsChangedEnable"`
	TransferCountOnMessageInMem  int   `yaml:"maxTransferCountOnMessageInMemory"` // 32
	TransferBytesOnMessageInMem  int   `yaml:"maxTransferBytesOnMessageInMemory"` // 256 KiB
	TransferCountOnMessageInDisk int   `yaml:"maxTransferCountOnMessageInDisk"`   // 8
	TransferBytesOnMessageInDisk int   `yaml:"maxTransferBytesOnMessageInDisk"`   // 64 KiB
	MaxHeldPulls                 int   `yaml:"maxHeldPulls"`                      // 100,000 per group
	// RebalanceLockMaxLiveTime is how long a queue is locked for an ordered
	// consumer that does not renew the lock: longer than consumers rely on it,
	// which is 30 s. 60s
	RebalanceLockMaxLiveTime Duration `yaml:"rebalanceLockMaxLiveTime"`

	MsgTraceTopicName   string `yaml:"msgTraceTopicName"`   // RMQ_SYS_TRACE_TOPIC
	MessageDelayLevel   string `yaml:"messageDelayLevel"`   // 1s 5s 10s 30s 1m 2m 3m ... 2h
	TimerMaxDelaySec    int    `yaml:"timerMaxDelaySec"`    // 259,200, 3 days: how far ahead a message may be due
	RecallMessageEnable *bool  `yaml:"recallMessageEnable"` // true

	// Transactions.
	TransactionTimeout       Duration `yaml:"transactionTimeOut"`       // 6s: so old a half message is asked about
	TransactionCheckInterval Duration `yaml:"transactionCheckInterval"` // 30s: and then again
	TransactionCheckMax      int      `yaml:"transactionCheckMax"`      // 15 times
	RejectTransaction        bool     `yaml:"rejectTransactionMessage"` // false

	// Connections.
	ServerChannelMaxIdle  int      `yaml:"serverChannelMaxIdleTimeSeconds"` // 120
	ServerMaxInFlight     int      `yaml:"serverMaxInFlight"`               // 16,384 requests per connection
	ServerMaxPendingBytes ByteSize `yaml:"serverMaxPendingBytes"`           // 8 MiB waiting for a client that does not read
	FrameMaxLength        ByteSize `yaml:"frameMaxLength"`                  // 16 MiB
	MaxConnections        int      `yaml:"maxConnections"`                  // 20,000 per group
	MaxBlockingRequests   int      `yaml:"maxBlockingRequests"`             // 256 that read the disk or wait for raft, per group

	// Name service.
	NamesrvHeartbeat Duration `yaml:"registerBrokerPeriod"` // 10s

	now         func() time.Time // the machine's clock
	listenFirst time.Duration    // see raftgroup.Config
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
	// PreferredLeader is the node that is to lead it. Default: another one for each
	// group, in the order of Groups and of the nodes' names.
	PreferredLeader string `yaml:"preferredLeader"`
	// Bootstrap: replicas without data may make the group, if all of Replicas are
	// such. True. False once it is made: its members may be others by now.
	Bootstrap *bool `yaml:"bootstrap"`
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// DataDir is where this node keeps its data.
func (c *Config) DataDir() string {
	return cmp.Or(c.StorePathRootDir, filepath.Join("data", c.NodeID))
}

func (c *Config) setDefaults() {
	yes := true
	orDefault(&c.BrokerClusterName, "DefaultCluster")
	c.StorePathRootDir = c.DataDir()
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
	orDefault(&c.DiskHangTimeout, Duration(time.Second))
	orDefault(&c.DiskSlowTime, Duration(200*time.Millisecond))
	orDefault(&c.MaxOpenFiles, 512)
	orDefault(&c.ElectionTimeout, Duration(300*time.Millisecond))
	orDefault(&c.SyncFlushTimeout, Duration(5*time.Second))
	orDefault(&c.SlaveTimeout, Duration(3*time.Second))
	orDefault(&c.MaxPendingBytes, 64<<20)
	orDefault(&c.CatchUpBytesPerSec, 64<<20)
	orDefault(&c.ScrubBytesPerSec, 16<<20)
	orDefault(&c.ScrubInterval, Duration(24*time.Hour))
	orDefault(&c.PromoteAfter, Duration(10*time.Second))
	orDefault(&c.DedupWindow, Duration(2*time.Minute))
	orDefault(&c.DedupMax, 1_000_000)
	orDefault(&c.LeaderBalance, &yes)
	orDefault(&c.LeaderBalanceDelay, Duration(10*time.Second))
	orDefault(&c.ShutdownDrainTimeout, Duration(35*time.Second))
	orDefault(&c.AutoCreateTopicEnable, &yes)
	orDefault(&c.DefaultTopicQueueNums, 8)
	orDefault(&c.AutoCreateSubscriptionGroup, &yes)
	orDefault(&c.ForwardToLeader, &yes)
	orDefault(&c.SlaveReadEnable, &yes)
	orDefault(&c.LongPollingEnable, &yes)
	orDefault(&c.UseServerSideResetOffset, &yes)
	orDefault(&c.StoreReplyMessageEnable, &yes)
	orDefault(&c.MsgTraceTopicName, remoting.TopicTrace)
	orDefault(&c.NotifyConsumerIdsChanged, &yes)
	orDefault(&c.TransferCountOnMessageInMem, 32)
	orDefault(&c.TransferBytesOnMessageInMem, 256<<10)
	orDefault(&c.TransferCountOnMessageInDisk, 8)
	orDefault(&c.TransferBytesOnMessageInDisk, 64<<10)
	orDefault(&c.MaxHeldPulls, 100_000)
	orDefault(&c.RebalanceLockMaxLiveTime, Duration(time.Minute))
	orDefault(&c.MessageDelayLevel, defaultDelayLevels)
	orDefault(&c.TransactionTimeout, Duration(6*time.Second))
	orDefault(&c.TransactionCheckInterval, Duration(30*time.Second))
	orDefault(&c.TransactionCheckMax, 15)
	orDefault(&c.TimerMaxDelaySec, 3*24*60*60)
	orDefault(&c.RecallMessageEnable, &yes)
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
