package broker

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
)

// How a send ends, and what the client is told. The answer is OK once a quorum
// has the message, on its disks with SYNC_FLUSH, and this replica has applied
// it. "Not stored" is definite: the message is not in the raft log and never
// will be. "Unknown" means that it is in the log of this replica or may be, and
// may be committed yet, by this leader or the next one.
//
//	what happened                                      answer                      stored?
//	-------------------------------------------------  --------------------------  -----------
//	committed and applied                              SUCCESS 0                   yes
//	the same, in a group of one with SYNC_MASTER       SLAVE_NOT_AVAILABLE 11      yes, once
//	stored before under the same UNIQ_KEY              as the first time           yes, once
//	no quorum has confirmed in slaveTimeout            FLUSH_SLAVE_TIMEOUT 12      unknown
//	leadership lost while it was on its way            FLUSH_SLAVE_TIMEOUT 12      unknown
//	the replica failed or closed meanwhile             FLUSH_SLAVE_TIMEOUT 12      unknown
//	this disk has not confirmed in syncFlushTimeout    FLUSH_DISK_TIMEOUT 10       unknown
//	this replica does not lead, or is closing          SERVICE_NOT_AVAILABLE 14    no
//	the disk is full (diskReserve, warning level)      SERVICE_NOT_AVAILABLE 14    no
//	more than maxPendingBytes on their way             SYSTEM_BUSY 2               no
//	no worker in time, for what is to be created first SYSTEM_BUSY 2               no
//	the message breaks a limit                         MESSAGE_ILLEGAL 13          no
//	topic, queue or permission is missing              17, 29, 16                  no
//	the state machine knows no reason but has refused  SYSTEM_ERROR 1              no
//
// An unknown outcome has queueOffset -1, an offset id of no message, and the field
// raftmqOutcome. Stock clients take 10 and 12 for "stored" and do not send again,
// so nothing is doubled; a client that wants to know sends the message again
// under its UNIQ_KEY, to whoever leads then, and within the window of sends is
// answered with what became of the first one. All codes that stock clients do
// repeat (1, 14, 16, 17, and 2 in new ones) are given only for what was not
// stored.

// Extension fields of raftmq. Who does not know them passes them over.
const (
	// extLeader is where the leader's clients connect: "host:port".
	extLeader = "raftmqLeader"
	// extOutcome says "unknown" with FLUSH_DISK_TIMEOUT and FLUSH_SLAVE_TIMEOUT.
	extOutcome = "raftmqOutcome"
	// extRepeat says with a send that an earlier one under its UNIQ_KEY may have
	// been stored, and that it is to be stored once, however soon it comes.
	extRepeat = "raftmqRepeat"
)

// Done implements raftgroup.SendOp.
func (op *sendOp) Done(r fsm.Result, err error) {
	if err == nil {
		err = refusalOf(r.Status, op.h.Topic)
	}
	switch {
	case errors.Is(err, raftgroup.ErrUnknown):
		op.unknown(err)
	case err != nil:
		op.refuse(err)
	default:
		op.stored(r)
	}
}

// unknown answers a send of which nobody knows what will become of it.
func (op *sendOp) unknown(err error) {
	defer op.free()
	op.b.counters.putUnknown.Add(1)
	resp := op.respond(-1, remoting.OffsetMsgID(op.b.addr, -1))
	resp.Code, resp.Remark = remoting.FlushSlaveTimeout, err.Error()
	if errors.Is(err, raftgroup.ErrFlushTimeout) {
		resp.Code = remoting.FlushDiskTimeout
	}
	resp.Ext.Add(extOutcome, "unknown")
	op.responder.Respond(resp)
}

// stored answers a send that was stored, now or before.
func (op *sendOp) stored(r fsm.Result) {
	defer op.free()
	b := op.b
	if op.key != (fsm.Key{}) {
		b.repeats.wrote(sentKey{op.from, op.key}, op.started, time.Now())
	}
	if r.Status == fsm.Stored {
		b.counters.put.Add(int64(max(1, len(op.sizes))), op.started)
	}
	if op.record.Topic == op.h.Topic { // else it is that of where it waits
		op.queue = r.Queue
	}
	resp := op.respond(r.QueueOffset, op.messageIDs(r))
	if b.cfg.BrokerRole == "SYNC_MASTER" && b.replicas() == 1 {
		resp.Code = remoting.SlaveNotAvailable
	}
	op.responder.Respond(resp)
}

// respond makes the answer of a message that is, or may be, stored.
func (op *sendOp) respond(offset int64, id string) *remoting.Command {
	op.answer = remoting.SendResponse{
		QueueID: op.queue, QueueOffset: offset, MsgID: id, TransactionID: op.uniq, Region: remoting.RegionDefault, TraceOn: true,
		RecallHandle: op.recall,
	}
	op.resp.Header = &op.answer
	return &op.resp
}

// refusalOf is what a client is told of a send that was not stored.
func refusalOf(s fsm.Status, topic string) error {
	switch s {
	case fsm.Stored, fsm.Repeated:
		return nil
	case fsm.NoTopic:
		return remoting.Errorf(remoting.TopicNotExist, "the topic %s does not exist any more", topic)
	case fsm.BadQueue:
		return remoting.Errorf(remoting.InvalidParameter, "the topic %s does not have that queue any more", topic)
	case fsm.TooLarge:
		return remoting.Errorf(remoting.MessageIllegal, "larger than a segment of the CommitLog")
	}
	return fmt.Errorf("not stored: status %d", s)
}

// messageIDs are the offset ids of the records that were stored.
func (op *sendOp) messageIDs(r fsm.Result) string {
	host := op.b.addr
	if r.StoreHost != op.b.storeHost { // another replica stored it, when it led
		var other netip.AddrPort
		if other.UnmarshalBinary([]byte(r.StoreHost)) == nil {
			host = other
		}
	}
	if op.batch == nil {
		return remoting.OffsetMsgID(host, r.Physical)
	}
	var ids strings.Builder
	at := r.Physical
	for i, size := range op.sizes {
		if i > 0 {
			ids.WriteByte(',')
		}
		ids.WriteString(remoting.OffsetMsgID(host, at))
		at += int64(size)
	}
	return ids.String()
}
