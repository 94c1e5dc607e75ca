package remoting

import (
	"fmt"
	"hash/crc32"
	"net/netip"
)

// First words of a record after its size.
const (
	MagicV1    uint32 = 0xDAA320A7
	MagicV2    uint32 = 0xDAA320AB // two bytes of topic length; only for topics over 127 bytes, as old clients know V1 only
	MagicBlank uint32 = 0xCBD43194 // filler at the end of a CommitLog segment, never sent
)

// Limits of the encoding, and of RocketMQ's broker by default.
const (
	MaxProperties  = 32767   // bytes of encoded properties
	MaxTopicV1     = 127     // bytes of topic in a V1 record
	MaxMessageSize = 4 << 20 // default limit of a body
)

// Record is a message as a broker stores it and a consumer pulls it.
type Record struct {
	QueueID                   int32
	Flag                      int32 // the user's, passed through
	QueueOffset               int64
	PhysicalOffset            int64
	SysFlag                   int32 // its IPv6 bits are set from the hosts
	BornTimestamp             int64 // ms, producer's clock
	BornHost                  netip.AddrPort
	StoreTimestamp            int64 // ms
	StoreHost                 netip.AddrPort
	ReconsumeTimes            int32
	PreparedTransactionOffset int64
	Body                      []byte
	Topic                     string
	Properties                Properties
}

//	 0      4       8      12       16     20          28         36        40       48
//	+------+-------+------+--------+------+-----------+----------+---------+--------+----------+-
//	| size | magic | CRC  | queue  | flag | queue     | physical | sysFlag | born   | bornHost |
//	|      |       |      | id     |      | offset    | offset   |         | time   | 8 or 20  |
//	+------+-------+------+--------+------+-----------+----------+---------+--------+----------+-
//	 56           64          72          76           84     88
//	-+-----------+-----------+-----------+------------+------+------+--------+-------+---------+------------+
//	 | storeTime | storeHost | reconsume | prepared   | body | body | topic  | topic | props   | properties |
//	 |           | 8 or 20   | times     | transaction| len  |      | len 1|2|       | len 2   |            |
//	-+-----------+-----------+-----------+------------+------+------+--------+-------+---------+------------+
//
// A host is 4 or 16 address bytes and a 32-bit port; each IPv6 host moves what follows by 12. The CRC is that of the body, without its top
// bit.

const recordFixed = 88 + 1 + 2 // an empty V1 record with IPv4 hosts

// Size returns the bytes AppendRecord will append.
func (r *Record) Size() int {
	n := recordFixed + len(r.Body) + len(r.Topic) + len(r.Properties)
	if len(r.Topic) > MaxTopicV1 {
		n++
	}
	if isV6(r.BornHost) {
		n += 12
	}
	if isV6(r.StoreHost) {
		n += 12
	}
	return n
}

// AppendRecord appends the encoding of r. It fails, with dst as it was, if topic or properties are longer than their length words can say
// or the whole is not expressible.
func AppendRecord(dst []byte, r *Record) ([]byte, error) {
	size := r.Size()
	switch {
	case len(r.Properties) > MaxProperties:
		return dst, fmt.Errorf("%w: properties of %d bytes, the limit is %d", ErrTooLong, len(r.Properties), MaxProperties)
	case len(r.Topic) > 32767:
		return dst, fmt.Errorf("%w: topic of %d bytes", ErrTooLong, len(r.Topic))
	case size > 1<<31-1:
		return dst, fmt.Errorf("%w: record of %d bytes", ErrTooLong, size)
	}
	sysFlag := r.SysFlag &^ (SysFlagBornHostV6 | SysFlagStoreHostV6)
	if isV6(r.BornHost) {
		sysFlag |= SysFlagBornHostV6
	}
	if isV6(r.StoreHost) {
		sysFlag |= SysFlagStoreHostV6
	}
	magic := MagicV1
	if len(r.Topic) > MaxTopicV1 {
		magic = MagicV2
	}
	dst = appendUint32(dst, uint32(size))
	dst = appendUint32(dst, magic)
	dst = appendUint32(dst, BodyCRC(r.Body))
	dst = appendUint32(dst, uint32(r.QueueID))
	dst = appendUint32(dst, uint32(r.Flag))
	dst = appendUint64(dst, uint64(r.QueueOffset))
	dst = appendUint64(dst, uint64(r.PhysicalOffset))
	dst = appendUint32(dst, uint32(sysFlag))
	dst = appendUint64(dst, uint64(r.BornTimestamp))
	dst = appendHost(dst, r.BornHost)
	dst = appendUint64(dst, uint64(r.StoreTimestamp))
	dst = appendHost(dst, r.StoreHost)
	dst = appendUint32(dst, uint32(r.ReconsumeTimes))
	dst = appendUint64(dst, uint64(r.PreparedTransactionOffset))
	dst = append(appendUint32(dst, uint32(len(r.Body))), r.Body...)
	if magic == MagicV2 {
		dst = append(dst, byte(len(r.Topic)>>8))
	}
	dst = append(append(dst, byte(len(r.Topic))), r.Topic...)
	return append(appendUint16(dst, uint16(len(r.Properties))), r.Properties...), nil
}

// SetQueueID patches an encoded record in place.
func SetQueueID(record []byte, id int32) { putUint32(record[12:], uint32(id)) }

// SetQueueOffset patches an encoded record in place.
func SetQueueOffset(record []byte, offset int64) { putUint64(record[20:], uint64(offset)) }

// SetPhysicalOffset patches an encoded record in place.
func SetPhysicalOffset(record []byte, offset int64) { putUint64(record[28:], uint64(offset)) }

// SetStoreTimestamp patches an encoded record in place; ms.
func SetStoreTimestamp(record []byte, ms int64) {
	at := 56
	if int32(getUint32(record[36:]))&SysFlagBornHostV6 != 0 {
		at += 12
	}
	putUint64(record[at:], uint64(ms))
}

// SetPreparedTransactionOffset patches an encoded record in place.
func SetPreparedTransactionOffset(record []byte, v int64) {
	at := 76
	for _, flag := range []int32{SysFlagBornHostV6, SysFlagStoreHostV6} {
		if int32(getUint32(record[36:]))&flag != 0 {
			at += 12
		}
	}
	putUint64(record[at:], uint64(v))
}

// BlankSize is the least room at the end of a segment that AppendBlank can fill.
const BlankSize = 8

// AppendBlank appends the 8 bytes that mark the last room bytes of a segment as filler; what follows them is up to the caller.
func AppendBlank(dst []byte, room int) []byte {
	return appendUint32(appendUint32(dst, uint32(room)), MagicBlank)
}

// BodyCRC is the checksum of a body in a record: CRC-32 (IEEE) without the top bit.
func BodyCRC(body []byte) uint32 { return crc32.ChecksumIEEE(body) & 0x7FFFFFFF }

func isV6(h netip.AddrPort) bool { return h.Addr().Is6() && !h.Addr().Is4In6() }

// appendHost appends a host; the zero one as 0.0.0.0:0.
func appendHost(dst []byte, h netip.AddrPort) []byte {
	if isV6(h) {
		a := h.Addr().As16()
		dst = append(dst, a[:]...)
	} else if a := h.Addr().Unmap(); a.Is4() {
		b := a.As4()
		dst = append(dst, b[:]...)
	} else {
		dst = append(dst, 0, 0, 0, 0)
	}
	return appendUint32(dst, uint32(h.Port()))
}

// host reads a host of n = 8 or 20 bytes. A port beyond 16 bits, which no socket has, is cut.
func host(b []byte) netip.AddrPort {
	n := len(b) - 4
	addr, _ := netip.AddrFromSlice(b[:n]) // 4 or 16 bytes always are an address
	return netip.AddrPortFrom(addr, uint16(getUint32(b[n:])))
}
