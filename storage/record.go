package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A record of the CommitLog, RocketMQ's layout, big endian:
//
//	 0 | total size 4 | magic 4 | body CRC 4 | queue id 4 | flag 4 |
//	20 | queue offset 8 | physical offset 8 | sys flag 4 | born time 8 |
//	48 | born host 8 or 20 | store time 8 | store host 8 or 20 |
//	72 | reconsume times 4 | prepared transaction offset 8 |      with short hosts
//	84 | body length 4 | body | topic length 1 or 2 | topic |
//	   | properties length 2 | properties |
//
// The store reads no more of it than it needs: to walk the log, to check it, and
// to search it by time.
const (
	recordMagic   = 0xDAA320A7
	recordMagicV2 = 0xDAA320AB // the topic's length takes two bytes
	blankMagic    = 0xCBD43194 // fills a segment's end

	recordHead      = 8 // total size and magic
	recordMin       = 91
	recordTimeEnd   = 76 // store time ends here at the latest
	sysFlagBornV6   = 1 << 4
	sysFlagStoreV6  = 1 << 5
	hostV6ExtraSize = 12
)

// record is a parsed record. Its slices are the input's.
type record struct {
	queue       int32
	queueOffset int64
	phys        int64
	storeTime   int64
	bodyCRC     uint32
	body        []byte
	topic       []byte
	properties  []byte
}

// parseRecord parses b, which must be one whole record. It checks that the
// lengths add up, not the body's CRC.
func parseRecord(b []byte) (record, error) {
	var r record
	if len(b) < recordMin {
		return r, fmt.Errorf("%w: a record of %d bytes", ErrCorrupt, len(b))
	}
	be := binary.BigEndian
	magic := be.Uint32(b[4:])
	if be.Uint32(b) != uint32(len(b)) || magic != recordMagic && magic != recordMagicV2 {
		return r, fmt.Errorf("%w: record of size %d, magic %#x in %d bytes", ErrCorrupt, be.Uint32(b), magic, len(b))
	}
	r.bodyCRC = be.Uint32(b[8:])
	r.queue = int32(be.Uint32(b[12:]))
	r.queueOffset = int64(be.Uint64(b[20:]))
	r.phys = int64(be.Uint64(b[28:]))
	r.storeTime = recordTime(b)
	at := 84
	flag := be.Uint32(b[36:])
	if flag&sysFlagBornV6 != 0 {
		at += hostV6ExtraSize
	}
	if flag&sysFlagStoreV6 != 0 {
		at += hostV6ExtraSize
	}
	topicLen := 1
	if magic == recordMagicV2 {
		topicLen = 2
	}
	ok := true
	field := func(lenSize int) []byte {
		if !ok || len(b)-at < lenSize {
			ok = false
			return nil
		}
		n := 0
		for _, c := range b[at : at+lenSize] {
			n = n<<8 | int(c)
		}
		at += lenSize
		if n > len(b)-at {
			ok = false
			return nil
		}
		at += n
		return b[at-n : at]
	}
	r.body = field(4)
	r.topic = field(topicLen)
	r.properties = field(2)
	if !ok || at != len(b) {
		return r, fmt.Errorf("%w: the fields of the record do not add up to its %d bytes", ErrCorrupt, len(b))
	}
	return r, nil
}

// checkBody compares the body with its CRC.
func (r *record) checkBody() error {
	if sum := crc32.ChecksumIEEE(r.body) & 0x7FFFFFFF; sum != r.bodyCRC {
		return fmt.Errorf("%w: the record's body has CRC %#x, the record says %#x", ErrCorrupt, sum, r.bodyCRC)
	}
	return nil
}

// recordTime reads the store time of a record of which b is the beginning, at
// least recordTimeEnd bytes.
func recordTime(b []byte) int64 {
	at := 56
	if binary.BigEndian.Uint32(b[36:])&sysFlagBornV6 != 0 {
		at += hostV6ExtraSize
	}
	return int64(binary.BigEndian.Uint64(b[at:]))
}
