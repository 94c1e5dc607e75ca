package remoting

import (
	"fmt"
	"net/netip"
)

// RecordView reads the fields of an encoded record in place. It was checked as a whole by ParseRecord: its methods cannot fail, and what
// they return as bytes lies in the record.
type RecordView struct {
	b      []byte
	stored int // where storeTimestamp is
	behind int // where what follows storeHost is
	topic  span
	props  span
}

// ParseRecord checks the record at the start of b, which may go on behind it. Filler is not a record.
func ParseRecord(b []byte) (RecordView, error) {
	var v RecordView
	if len(b) < recordFixed {
		return v, fmt.Errorf("%w: %d bytes, the shortest has %d", ErrRecord, len(b), recordFixed)
	}
	size := int64(int32(getUint32(b)))
	if size < recordFixed || size > int64(len(b)) {
		return v, fmt.Errorf("%w: size %d, %d bytes are there", ErrRecord, size, len(b))
	}
	b = b[:size:size]
	magic := getUint32(b[4:])
	if magic != MagicV1 && magic != MagicV2 {
		return v, fmt.Errorf("%w: magic %#08x", ErrRecord, magic)
	}
	v.b = b
	sysFlag := v.SysFlag()
	v.stored = 56
	if sysFlag&SysFlagBornHostV6 != 0 {
		v.stored += 12
	}
	v.behind = v.stored + 16
	if sysFlag&SysFlagStoreHostV6 != 0 {
		v.behind += 12
	}
	r := recordReader{b: b, at: v.behind + 12}
	r.field("body", 4)
	if magic == MagicV2 {
		v.topic = r.field("topic", 2)
	} else {
		v.topic = r.field("topic", 1)
	}
	v.props = r.field("properties", 2)
	if r.err == nil && r.at != len(b) {
		r.err = fmt.Errorf("%w: %d bytes behind the properties", ErrRecord, len(b)-r.at)
	}
	if r.err != nil {
		return RecordView{}, r.err
	}
	return v, nil
}

// recordReader walks the variable part of a record, keeping the first error.
type recordReader struct {
	b   []byte
	at  int
	err error
}

// field passes over a length word of width bytes and what it counts, and returns where that lies.
func (r *recordReader) field(name string, width int) span {
	if r.err != nil {
		return span{}
	}
	n := -1
	if left := len(r.b) - r.at; left >= width {
		switch w := r.b[r.at:]; width {
		case 1:
			n = int(w[0])
		case 2:
			n = int(int16(getUint16(w)))
		default:
			n = int(int32(getUint32(w)))
		}
		if n >= 0 && n <= left-width {
			from := r.at + width
			r.at = from + n
			return span{from, r.at}
		}
	}
	r.err = fmt.Errorf("%w: %s of %d bytes at %d of %d", ErrRecord, name, n, r.at, len(r.b))
	return span{}
}

// Bytes returns the whole record.
func (v RecordView) Bytes() []byte { return v.b }

// Size returns the length of the whole record.
func (v RecordView) Size() int { return len(v.b) }

// BodyCRC returns the stored checksum of the body.
func (v RecordView) BodyCRC() uint32 { return getUint32(v.b[8:]) }

// QueueID returns the message queue's number in its topic.
func (v RecordView) QueueID() int32 { return int32(getUint32(v.b[12:])) }

// Flag returns the user's flag.
func (v RecordView) Flag() int32 { return int32(getUint32(v.b[16:])) }

// QueueOffset returns the message's number in its queue.
func (v RecordView) QueueOffset() int64 { return int64(getUint64(v.b[20:])) }

// PhysicalOffset returns the record's place in the CommitLog.
func (v RecordView) PhysicalOffset() int64 { return int64(getUint64(v.b[28:])) }

// SysFlag returns the SysFlag bits.
func (v RecordView) SysFlag() int32 { return int32(getUint32(v.b[36:])) }

// BornTimestamp returns when the producer made the message; ms.
func (v RecordView) BornTimestamp() int64 { return int64(getUint64(v.b[40:])) }

// BornHost returns the producer's address.
func (v RecordView) BornHost() netip.AddrPort { return host(v.b[48:v.stored]) }

// StoreTimestamp returns when the broker took the message; ms.
func (v RecordView) StoreTimestamp() int64 { return int64(getUint64(v.b[v.stored:])) }

// StoreHost returns the broker's address.
func (v RecordView) StoreHost() netip.AddrPort { return host(v.b[v.stored+8 : v.behind]) }

// ReconsumeTimes returns how often consumers have sent the message back.
func (v RecordView) ReconsumeTimes() int32 { return int32(getUint32(v.b[v.behind:])) }

// PreparedTransactionOffset returns the physical offset of the half message that this one commits, or 0.
func (v RecordView) PreparedTransactionOffset() int64 { return int64(getUint64(v.b[v.behind+4:])) }

// Body returns the body as stored, perhaps compressed.
func (v RecordView) Body() []byte {
	n := int(getUint32(v.b[v.behind+12:]))
	return v.b[v.behind+16 : v.behind+16+n]
}

// Topic returns the topic.
func (v RecordView) Topic() string { return string(v.b[v.topic.from:v.topic.to]) }

// Properties returns the encoded properties.
func (v RecordView) Properties() Properties { return Properties(v.b[v.props.from:v.props.to]) }

// OffsetMsgID returns the id that names the record by its broker and place.
func (v RecordView) OffsetMsgID() string { return OffsetMsgID(v.StoreHost(), v.PhysicalOffset()) }

// VerifyBody compares the body with its checksum.
func (v RecordView) VerifyBody() error {
	if got, want := BodyCRC(v.Body()), v.BodyCRC(); got != want {
		return fmt.Errorf("%w: body checksum %08x, stored %08x", ErrRecord, got, want)
	}
	return nil
}

// Record returns the fields; Body and Properties lie in the view's bytes.
func (v RecordView) Record() Record {
	return Record{
		QueueID: v.QueueID(), Flag: v.Flag(), QueueOffset: v.QueueOffset(), PhysicalOffset: v.PhysicalOffset(),
		SysFlag: v.SysFlag(), BornTimestamp: v.BornTimestamp(), BornHost: v.BornHost(), StoreTimestamp: v.StoreTimestamp(),
		StoreHost: v.StoreHost(), ReconsumeTimes: v.ReconsumeTimes(), PreparedTransactionOffset: v.PreparedTransactionOffset(),
		Body: v.Body(), Topic: v.Topic(), Properties: v.Properties(),
	}
}

// DecodeRecords cuts the body of a pull, view or query response into its records, which lie in body.
func DecodeRecords(body []byte) ([]RecordView, error) {
	var list []RecordView
	for at := 0; at < len(body); {
		v, err := ParseRecord(body[at:])
		if err != nil {
			return nil, fmt.Errorf("record %d at byte %d: %w", len(list), at, err)
		}
		list = append(list, v)
		at += v.Size()
	}
	return list, nil
}

// TopicBytes returns the topic, in the view's bytes.
func (v RecordView) TopicBytes() []byte { return v.b[v.topic.from:v.topic.to] }
