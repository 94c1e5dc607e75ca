package namesrv

import (
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage/disk"
)

// Bounds on what peers can make a Service hold. What goes beyond is refused with
// a remark that names the bound.
const (
	MaxTopics   = 100_000   // topics in one registration
	MaxBrokers  = 10_000    // brokers registered at one time
	MaxRoutes   = 1_000_000 // pairs of a topic and a broker group that has it
	MaxName     = 255       // bytes of a broker, cluster or topic name, or of an address
	MaxGroupID  = 128       // bytes of a FieldGroup
	MaxKVBytes  = 4 << 20   // namespaces, keys and values of the KV configuration
	maxLease    = 24 * time.Hour
	scanPeriod  = 5 * time.Second // between looks for expired leases
	masterID    = 0
	orderConfNS = "ORDER_TOPIC_CONFIG"
)

// Broker is a broker that is known from configuration.
type Broker struct {
	Name    string // of the group
	Address string // "host:port" for clients
}

// Config configures a Service. The zero value is the defaults.
type Config struct {
	// Expect are the brokers that will register. Once all have, or the leader of
	// their raft group has for them, the service is ready. If there are none, only
	// WaitForService makes it so.
	Expect []Broker
	// WaitForService is how long after its start a service that misses expected
	// brokers does not say TopicNotExist. Default: 45 s. Negative: not at all.
	WaitForService time.Duration
	// Lease is how long a broker that does not ask for another time stays
	// registered without a sign of life. Default: 120 s.
	Lease time.Duration
	// StandIn is how long a raft group without a leader is shown with a follower
	// in its place (rule R5). Default: 10 s. Negative: not at all.
	StandIn time.Duration
	// KVPath is the file that keeps the KV configuration, in RocketMQ's format.
	// Default: none, it is forgotten.
	KVPath string
	// FS is where KVPath is. Default: the machine's file system.
	FS disk.FS
	// Options are RocketMQ's switches.
	Options Options
	// Conn configures the connections of Serve.
	Conn remoting.ConnConfig
	// Logger is told of brokers that come and go, and of refusals. Default: none.
	Logger hclog.Logger
}

// Options are RocketMQ's switches of a name server, which an operator may change
// while it runs (UpdateNamesrvConfig). Their names there are in brackets.
type Options struct {
	// OrderMessage puts the KV namespace ORDER_TOPIC_CONFIG into routes
	// [orderMessageEnable].
	OrderMessage bool
	// NoOrderTopicConfig leaves that namespace out of the answers to
	// registrations [returnOrderTopicConfigToBroker=false].
	NoOrderTopicConfig bool
	// DeleteTopics deletes topics that are missing from a later registration of
	// a RocketMQ broker [deleteTopicWithBrokerRegistration]. Raft groups are
	// always taken at their word.
	DeleteTopics bool
	// ActingMaster shows the slave with the smallest id as id 0 in the routes of
	// a RocketMQ broker that allows it, has no master and is not writable
	// [supportActingMaster].
	ActingMaster bool
}

// validate fills in the defaults.
func (c *Config) validate() error {
	if c.WaitForService == 0 {
		c.WaitForService = 45 * time.Second
	}
	if c.Lease == 0 {
		c.Lease = 120 * time.Second
	}
	if c.Lease < 0 || c.Lease > maxLease {
		return fmt.Errorf("namesrv: Lease is %v, want 0 (120 s) to %v", c.Lease, maxLease)
	}
	if c.StandIn == 0 {
		c.StandIn = 10 * time.Second
	}
	if c.FS == nil {
		c.FS = disk.OS()
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	for _, e := range c.Expect {
		if err := checkName("broker name", e.Name); err != nil {
			return fmt.Errorf("namesrv: Expect: %w", err)
		}
		if err := checkAddr(e.Address); err != nil {
			return fmt.Errorf("namesrv: Expect: %w", err)
		}
	}
	return nil
}
