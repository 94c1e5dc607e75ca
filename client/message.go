package client

import (
	"net/netip"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// Message is a message to be sent. It must not be changed, or sent by two calls at once, while a call that sends it has not returned.
//
// Each send is a message of its own with a new id, also of a Message that was sent before. The exception is a Message whose last send ended
// with ErrLimbo: sending it again repeats that send, under its id and to the broker group that may have it, so it is stored once. Copies
// of such a Message do the same.
type Message struct {
	// Topic is required.
	Topic string
	Body  []byte
	// Tags is one tag, which consumers can select by. It must not contain "||".
	Tags string
	// Keys are for looking the message up, see PullConsumer.QueryByKey. They must not contain spaces.
	Keys []string
	// Properties are the user's own. Those with a meaning to RocketMQ have it here too: UNIQ_KEY gives the message its id.
	Properties map[string]string
	// Flag is passed through.
	Flag int32
	// DelayLevel, if > 0, delays the message by the broker's level of that number: by default 1 s, 5 s, 10 s, 30 s, 1 to 10 min, 20 min,
	// 30 min, 1 h, 2 h. A message received has 0, as it is not to be delayed again if it is sent on.
	DelayLevel int
	// DeliverAfter, if > 0, delays the message by any time, in whole milliseconds, up to the broker's timerMaxDelaySec (3 days by default), by
	// the broker's clock; DeliverAt, if set, until a time. At most one of them and DelayLevel may be set. See Producer.Recall.
	DeliverAfter time.Duration
	DeliverAt    time.Time
	// ShardingKey, if set, selects the queue: messages with one key go to one queue, in the order they are sent (see ProducerConfig.InOrder),
	// for as long as the number of queues does not change; a send fails while its queue's broker is away, rather than take another. The queues
	// also stay the same while a broker is away for so long that name servers forget it, if they are told which queues there are: in the
	// namespace ORDER_TOPIC_CONFIG, as "broker-a:8;broker-b:8". Java's hash selector chooses the same queue for a string.
	//
	// Make the topic before, with all its queues (Admin.CreateTopic, raftmq topic create). One that comes to be by its first messages has its
	// queues group by group, as each group gets one, and until all have them the queue of a key changes, and the order is lost.
	ShardingKey string

	limbo limbo // of the last send
}

// limbo is what is remembered of a send whose outcome is unknown.
type limbo struct {
	id    string // of the send: UNIQ_KEY, of a batch all of them; "": the last send had an outcome
	key   string // UNIQ_KEY of this message
	queue MessageQueue
}

// propShardingKey is Java's name.
const propShardingKey = "__SHARDINGKEY"

// MessageExt is a message as it was received. Who got it owns it; but Body, if it was not compressed, lies in memory that messages pulled together share, so keeping one
// of them keeps that of all (clone it to avoid that).
type MessageExt struct {
	// Message is what was sent, as far as it is the user's: Topic is the original one even if the message comes from a retry topic, and
	// Properties has none of those that RocketMQ uses; see Property.
	Message
	// MsgID is the id that the producer gave the message, which retries keep. If there is none it is OffsetMsgID.
	MsgID string
	// OffsetMsgID names the stored record, by its broker and place.
	OffsetMsgID string
	// Queue and QueueOffset are where it was read from: for a retry, a queue of the retry topic.
	Queue       MessageQueue
	QueueOffset int64
	// PhysicalOffset is the record's place in the broker's commit log.
	PhysicalOffset int64
	// BornTime is when it was sent, by the producer's clock; StoreTime when it was stored, by the broker's.
	BornTime, StoreTime time.Time
	BornHost, StoreHost netip.AddrPort
	// ReconsumeTimes is how often consumers of the group have failed on it.
	ReconsumeTimes int
	// SysFlag are the remoting.SysFlag bits of the record.
	SysFlag int32
	// StoreSize is the size of the record in bytes.
	StoreSize int
	// Compressed says that Body is as it was stored because it could not be decompressed; Err, which matches ErrUndecodable, says why.
	Compressed bool
	Err        error

	raw remoting.Properties
}

// Property returns a property of the stored record, "" if there is none: those of RocketMQ, which Properties does not have, included.
func (m *MessageExt) Property(name string) string { return m.raw.Get(name) }

// RawProperties returns all properties of the stored record. They must not be changed.
func (m *MessageExt) RawProperties() remoting.Properties { return m.raw }

// SendStatus is how sure it is that a message stays stored.
type SendStatus int

// The statuses of a message that was stored. All but SendOK say that it may be lost if a broker's machine crashes right now. raftmq
// brokers confirm a message when a majority has it, so they answer SendOK or nothing of the kind.
const (
	SendOK            SendStatus = iota
	FlushDiskTimeout             // stored, the disk did not confirm in time
	FlushSlaveTimeout            // stored, the replicas did not confirm in time
	SlaveNotAvailable            // stored, there was no replica to confirm
)

var sendStatusNames = [...]string{"SEND_OK", "FLUSH_DISK_TIMEOUT", "FLUSH_SLAVE_TIMEOUT", "SLAVE_NOT_AVAILABLE"}

// String returns RocketMQ's name.
func (s SendStatus) String() string {
	if s < 0 || int(s) >= len(sendStatusNames) {
		return "UNKNOWN"
	}
	return sendStatusNames[s]
}

// SendResult is where a message was stored.
type SendResult struct {
	Status SendStatus
	// MsgID is the message's id (property UNIQ_KEY); of a batch, those of its messages joined by commas.
	MsgID string
	// OffsetMsgID names the stored record; of a batch, likewise.
	OffsetMsgID string
	Queue       MessageQueue
	// QueueOffset is the message's place in Queue; of a batch, the first one's.
	QueueOffset int64
	// RecallHandle is what Producer.Recall wants of a message that is due at a time; empty of any other.
	RecallHandle string
	// Attempts is how many requests it took.
	Attempts int
}
