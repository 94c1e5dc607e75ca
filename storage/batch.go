package storage

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// QueueID names a queue. A topic that is deleted and created again has another
// incarnation, and with it other files.
type QueueID struct {
	Topic       string
	Incarnation uint64
	Queue       int32
}

func (id QueueID) String() string {
	return fmt.Sprintf("%s@%d/%d", id.Topic, id.Incarnation, id.Queue)
}

func (id QueueID) topic() TopicID { return TopicID{id.Topic, id.Incarnation} }

// TopicID names one life of a topic.
type TopicID struct {
	Topic       string
	Incarnation uint64
}

func (t TopicID) String() string { return fmt.Sprintf("%s@%d", t.Topic, t.Incarnation) }

// MaxTopicLen is the length in bytes of the longest topic name that the store
// can name a directory after: a file name has 255 bytes, and the incarnation
// takes up to 21 of them.
const MaxTopicLen = 234

// CheckTopic says whether a topic name can be stored: not empty, at most
// MaxTopicLen bytes, and nothing that would mean something in a path. It is the
// least the store needs; what a client may call a topic is decided elsewhere.
func CheckTopic(topic string) error {
	switch {
	case topic == "":
		return fmt.Errorf("storage: empty topic name")
	case len(topic) > MaxTopicLen:
		return fmt.Errorf("storage: topic name of %d bytes is longer than %d", len(topic), MaxTopicLen)
	case topic[0] == '.' || strings.ContainsAny(topic, "/@\x00"):
		return fmt.Errorf("storage: topic name %q begins with a dot or contains '/', '@' or NUL", topic)
	}
	return nil
}

// Unit is an entry of a queue: where the message at a queue offset lies.
//
//	0 | physical offset 8 | size 4 | tag code 8 | 20      big endian
//
// Tag is the hash of the message's tag, or whatever else the queue's owner
// wants to know without reading the record.
type Unit struct {
	Phys int64
	Size int32
	Tag  int64
}

// UnitSize is the size of a Unit on disk in bytes.
const UnitSize = 20

func appendUnit(dst []byte, u Unit) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(u.Phys))
	dst = binary.BigEndian.AppendUint32(dst, uint32(u.Size))
	return binary.BigEndian.AppendUint64(dst, uint64(u.Tag))
}

func decodeUnit(b []byte) Unit {
	_ = b[UnitSize-1]
	return Unit{
		Phys: int64(binary.BigEndian.Uint64(b)),
		Size: int32(binary.BigEndian.Uint32(b[8:])),
		Tag:  int64(binary.BigEndian.Uint64(b[12:])),
	}
}

// Batch is what one step of apply writes. The Store keeps nothing of it.
type Batch struct {
	// Pos is where Log goes: the end of the CommitLog.
	Pos int64
	// Log is whole records, and at the end of each segment a blank that fills
	// it: 4 bytes room left, 4 bytes 0xCBD43194, zeros. No record lies across a
	// segment's end.
	Log []byte
	// Units are the queues' new entries, each queue's in order.
	Units []QueueUnit
	// Keys are the index keys of the records in Log, in order of Phys.
	Keys []IndexKey
}

// BlankSize is the least room a record leaves at the end of its segment: one that
// does not fit with it opens the next segment, and a blank fills this one.
const BlankSize = 8

// AppendBlank appends the blank that fills the last room bytes of a segment.
func AppendBlank(dst []byte, room int64) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(room))
	dst = binary.BigEndian.AppendUint32(dst, blankMagic)
	return append(dst, make([]byte, room-BlankSize)...)
}

// QueueUnit is a Unit and its place: the end of that queue.
type QueueUnit struct {
	Queue  *Queue
	Offset int64
	Unit
}
