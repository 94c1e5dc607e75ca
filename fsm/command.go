package fsm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// A command is the data of one raft entry.
//
//	+---------+------+------------------+---------+
//	| version | kind | time, ms         | by kind |
//	| 1 B     | 1 B  | 8 B BE           | ...     |
//	+---------+------+------------------+---------+
//
// The time is the log time the leader stamped. The set of kinds is closed and
// versioned: a replica that meets one it does not know stops applying, as to
// skip it would make its state another than its peers'.
const (
	commandVersion = 1
	headerSize     = 1 + 1 + 8
)

// Kind says what a command does. Numbers are never given to another meaning.
type Kind uint8

// StoresMessages says whether applying a command takes room in the CommitLog and
// the queues. Of one that can't be read nothing is known: it may.
func StoresMessages(command []byte) bool {
	if len(command) < headerSize || command[0] != commandVersion {
		return true
	}
	k := Kind(command[1])
	return k == KindAppend || k == KindDeliver || k == 0 || k > lastKind
}

// The commands.
const (
	KindConfigure     Kind = 1 // set what all replicas must agree on
	KindLead          Kind = 2 // a new leader begins
	KindAppend        Kind = 3 // append messages
	KindPutTopic      Kind = 4 // create or change a topic
	KindDeleteTopic   Kind = 5
	KindPutGroup      Kind = 6 // create or change a subscription group
	KindDeleteGroup   Kind = 7
	KindCommitOffsets Kind = 8  // consumer offsets
	KindTrim          Kind = 9  // forget the CommitLog's first segments
	KindDeliver       Kind = 10 // append delayed messages that are due where they belong
	KindLock          Kind = 11 // who consumes queues in order
	KindResetOffsets  Kind = 12 // consumer offsets, and what consumers commit is passed over until they know
	KindEndReset      Kind = 13 // they know
	KindStartConsumer Kind = 14 // a consumer has started and says how often messages come again
	KindPutMember     Kind = 15 // a node is a member of the group
	KindDropMember    Kind = 16 // it is none any more
	KindPutAutopilot  Kind = 17 // how members get votes, and lose them, by themselves
	KindIncident      Kind = 18 // what operators should find later
	KindDigest        Kind = 19 // every replica takes its digests
	KindRegroup       Kind = 20 // the group was recovered by hand, and is another one
)

// lastKind is the last of them.
const lastKind = KindRegroup

// ErrCommand is what a command that can't be applied wraps. It stops the replica.
var ErrCommand = errors.New("fsm: command can't be applied")

func header(dst []byte, k Kind) []byte {
	dst = append(dst, commandVersion, byte(k))
	return append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
}

// Stamp sets a command's log time, ms. The proposer does it last, so that
// commands enter the log in the order of their times.
func Stamp(command []byte, now int64) {
	binary.BigEndian.PutUint64(command[2:], uint64(now))
}

// Configuration is what every replica of a group must agree on to stay equal.
type Configuration struct {
	// GroupID is random, made at bootstrap. A recovery by hand makes a new one, as the
	// old group may live on elsewhere; nothing else changes it.
	GroupID string `json:"groupId"`
	// SegmentSize is the size of a CommitLog segment in bytes. Once set it never
	// changes: another size pads differently, and offsets would differ.
	SegmentSize int64 `json:"segmentSize"`
	// DedupSpan is how long a send is remembered, in ms of log time; DedupMax
	// how many are at most. 0 remembers none.
	DedupSpan int64 `json:"dedupSpan"`
	DedupMax  int   `json:"dedupMax"`
}

func jsonCommand(k Kind, v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		// Plain structs of strings and numbers.
		panic(fmt.Sprintf("fsm: encoding %T: %v", v, err))
	}
	return append(header(nil, k), body...)
}

// Configure makes a command that sets the configuration, or what of it may
// still change.
func Configure(c Configuration) []byte { return jsonCommand(KindConfigure, c) }

// Leader is a replica that leads, as the log has it.
type Leader struct {
	Node    string `json:"node"`
	Address string `json:"address"` // where clients reach it
	Term    uint64 `json:"-"`
}

// Lead makes the command a new leader begins its term with. Once it is applied,
// so is everything the terms before have committed.
func Lead(l Leader) []byte { return jsonCommand(KindLead, l) }

// PutTopic creates a topic or changes its configuration. With create only it
// leaves a topic alone that exists.
func PutTopic(c remoting.TopicConfig, createOnly bool) []byte {
	return c.AppendBody(appendBool(header(nil, KindPutTopic), createOnly))
}

// DeleteTopic deletes a topic, its queues and every group's offsets in it.
func DeleteTopic(name string) []byte {
	return appendString(header(nil, KindDeleteTopic), name)
}

// PutGroup creates a subscription group or changes it. With create only it
// leaves a group alone that exists.
func PutGroup(c remoting.GroupConfig, createOnly bool) []byte {
	return c.AppendBody(appendBool(header(nil, KindPutGroup), createOnly))
}

// DeleteGroup deletes a subscription group, and its offsets if asked to.
func DeleteGroup(name string, offsets bool) []byte {
	return appendBool(appendString(header(nil, KindDeleteGroup), name), offsets)
}

// Offset is a group's position in a queue: the next queue offset to consume.
type Offset struct {
	Group, Topic string
	Queue        int32
	Offset       int64
}

// CommitOffsets sets consumer offsets, in order.
func CommitOffsets(offsets []Offset) []byte {
	return appendOffsets(header(nil, KindCommitOffsets), offsets)
}

func appendOffsets(b []byte, offsets []Offset) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(offsets)))
	for _, o := range offsets {
		b = appendString(b, o.Group)
		b = appendString(b, o.Topic)
		b = appendI32(b, o.Queue)
		b = appendI64(b, o.Offset)
	}
	return b
}

// Trim forgets the CommitLog below this physical offset, the start of a segment.
func Trim(physical int64) []byte { return appendI64(header(nil, KindTrim), physical) }

// An append command carries, behind the header, the store host of its records
// (length 4 B, netip's binary form) and then sends, each stored whole or not at
// all:
//
//	+-------+------+--------+---------+--------+------------+---------+
//	| flags | key  | delay  | records | length | settlement | records |
//	| 1 B   | 16 B | 8 B BE | 4 B BE  | 4 B BE | if flagged | ...     |
//	+-------+------+--------+---------+--------+------------+---------+
//
// The records are complete but for what apply assigns: queue offset, physical
// offset and store time, and for a message of the schedule topic when it is due.
// All records of a send are for one queue of one topic.
//
// A settlement names a message that waits: topic (length 4 B), incarnation (8 B),
// queue (4 B) and queue offset (8 B). The send is stored and that message settled,
// both or neither, and only if it was not settled before. Such a send may have no
// records: it settles and no more. One that asks leaves the message unsettled and
// counts that somebody was asked what is to become of it.
//
// A deliver command carries, before the store host, which queue of the schedule
// topic it empties (4 B) and from which offset on (8 B), and then one send for
// each message there, in order; one without records passes a message over. The
// physical offset in a record is where the message waited: by it apply tells a
// topic from a later one of the same name. The command is applied as a whole, and
// only if that queue has been emptied up to that offset.
const (
	sendHeaderSize = 1 + 16 + 8 + 4 + 4

	// flagRepeat: the client sends this again on purpose: store it though its
	// key is known.
	flagRepeat = 1 << 0
	// flagSettles: a settlement follows the header.
	flagSettles = 1 << 1
	// flagWaited: the physical offset in the records is where they waited.
	flagWaited = 1 << 2
	// flagAsks: the settlement's message was asked about, and is not settled.
	flagAsks = 1 << 3
)

// SendMeta is what a send says beside its records.
type SendMeta struct {
	// Key is the send's identity, or zero. Of a send that only settles it is that of
	// the message settled, which may then be sent again.
	Key    Key
	Repeat bool  // stored though the key is known
	Delay  int64 // ms, of a message that waits for its time: how long after its store time that is
	// Settles is the message that the send settles, if any.
	Settles *Waiting
	// Waited says that the physical offset in the records is where they waited.
	// They are refused if the topic they are for is a later one of its name, and
	// get another queue if it has fewer now.
	Waited bool
	// Asks says that the message is not settled, but that somebody is asked what is
	// to become of it, which is counted. It goes without records.
	Asks bool
}

// Waiting is a message that something is still to be done with: a half message
// that is to be committed or rolled back, one that is due at a time, a dead
// letter that was not sent again.
type Waiting struct {
	Queue  storage.QueueID
	Offset int64 // in the queue
}

// AppendCommand builds an append or deliver command in place, without copying a
// message more than once.
type AppendCommand struct {
	b     []byte
	mark  int // of the send being added
	body  int // of its records
	sends int
}

// NewAppendCommand starts a command in buf, which it takes over. The store host
// is the leader's address for clients.
func NewAppendCommand(buf []byte, storeHost netip.AddrPort) *AppendCommand {
	return &AppendCommand{b: appendHost(header(buf[:0], KindAppend), storeHost)}
}

// NewDeliverCommand starts a command that empties a queue of the schedule topic
// from an offset on.
func NewDeliverCommand(storeHost netip.AddrPort, queue int32, from int64) *AppendCommand {
	b := appendI64(appendI32(header(nil, KindDeliver), queue), from)
	return &AppendCommand{b: appendHost(b, storeHost)}
}

func appendHost(b []byte, storeHost netip.AddrPort) []byte {
	host, err := storeHost.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("fsm: encoding %v: %v", storeHost, err)) // it never fails
	}
	return appendBytes(b, host)
}

// Begin starts a send and returns the buffer to append its records to.
func (a *AppendCommand) Begin(m SendMeta) []byte {
	a.mark = len(a.b)
	var flags byte
	if m.Repeat {
		flags |= flagRepeat
	}
	if m.Settles != nil {
		flags |= flagSettles
	}
	if m.Waited {
		flags |= flagWaited
	}
	if m.Asks {
		flags |= flagAsks
	}
	a.b = append(a.b, flags)
	a.b = append(a.b, m.Key[:]...)
	a.b = appendI64(a.b, m.Delay)
	a.b = append(a.b, 0, 0, 0, 0, 0, 0, 0, 0)
	if w := m.Settles; w != nil {
		a.b = appendString(a.b, w.Queue.Topic)
		a.b = binary.BigEndian.AppendUint64(a.b, w.Queue.Incarnation)
		a.b = appendI32(a.b, w.Queue.Queue)
		a.b = appendI64(a.b, w.Offset)
	}
	a.body = len(a.b)
	return a.b
}

// End takes the buffer of Begin back, with this many records in it.
func (a *AppendCommand) End(buf []byte, records int) {
	at := a.mark + sendHeaderSize - 8
	binary.BigEndian.PutUint32(buf[at:], uint32(records))
	binary.BigEndian.PutUint32(buf[at+4:], uint32(len(buf)-a.body))
	a.b = buf
	a.sends++
}

// Abort takes back what was begun and not ended.
func (a *AppendCommand) Abort() { a.b = a.b[:a.mark] }

// Len is the command's length so far, in bytes; Sends the number of sends in it.
func (a *AppendCommand) Len() int   { return len(a.b) }
func (a *AppendCommand) Sends() int { return a.sends }

// Bytes is the command. It must not be changed once it was proposed.
func (a *AppendCommand) Bytes() []byte { return a.b }
