package storage

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"
)

// Manifest describes the content of a Store at one moment: what there is, and
// the checksums it must have. It is the root of trust for everything that is
// read or fetched later. A raft snapshot carries it; two replicas at the same
// applied index have the same.
//
// Invariants:
//
//	M1 0 <= Min <= End; Min is where a segment begins.
//	M2 Digests has one for each segment that has a byte in [Min, End).
//	M3 Queues is sorted, without duplicates; no queue has Max 0.
type Manifest struct {
	SegmentSize int64
	// Min and End bound the CommitLog in bytes.
	Min, End int64
	// Digests are the checksums over the sums of the whole blocks of each
	// segment, from Min on. Part is the CRC of the bytes in the last block, if it
	// is not whole.
	Digests []uint32
	Part    uint32
	Queues  []QueueState

	pin *pin // of one that Store.Pin made
}

// QueueState describes a queue.
type QueueState struct {
	QueueID
	Max  int64  // number of units ever appended
	Sums uint32 // checksum over the sums of its whole blocks
	Part uint32 // CRC of the block that is not whole, 0 if there is none
}

func compareQueueID(a, b QueueID) int {
	if c := compareTopicID(a.topic(), b.topic()); c != 0 {
		return c
	}
	return cmp.Compare(a.Queue, b.Queue)
}

func compareTopicID(a, b TopicID) int {
	if c := strings.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return cmp.Compare(a.Incarnation, b.Incarnation)
}

// plain is the manifest without what Pin added for Sync.
func (m *Manifest) plain() *Manifest {
	p := *m
	p.pin = nil
	return &p
}

// segments calls fn with the base of each segment and what the manifest says of
// it.
func (m *Manifest) segments(fn func(base int64, t trust)) {
	for i, digest := range m.Digests {
		base := m.Min + int64(i)*m.SegmentSize
		t := trust{valid: min(m.SegmentSize, m.End-base), digest: digest}
		if t.valid%blockSize != 0 {
			t.part = m.Part
		}
		fn(base, t)
	}
}

// segment is what the manifest says of one segment.
func (m *Manifest) segment(base int64) (t trust, ok bool) {
	m.segments(func(b int64, u trust) {
		if b == base {
			t, ok = u, true
		}
	})
	return t, ok
}

func (m *Manifest) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: manifest: "+format, append([]any{ErrCorrupt}, args...)...)
	}
	if err := checkSegmentSize(m.SegmentSize); err != nil {
		return bad("%v", err)
	}
	if m.Min < 0 || m.Min > m.End || m.End > math.MaxInt64-m.SegmentSize || m.Min%m.SegmentSize != 0 {
		return bad("log [%d, %d) in segments of %d", m.Min, m.End, m.SegmentSize)
	}
	if n := (m.End - m.Min + m.SegmentSize - 1) / m.SegmentSize; int64(len(m.Digests)) != n {
		return bad("%d digests for %d segments", len(m.Digests), n)
	}
	for i, q := range m.Queues {
		if CheckTopic(q.Topic) != nil || q.Queue < 0 || q.Max <= 0 || q.Max > math.MaxInt64/UnitSize {
			return bad("queue %q, max %d", q.QueueID, q.Max)
		}
		if i > 0 && compareQueueID(m.Queues[i-1].QueueID, q.QueueID) >= 0 {
			return bad("queue %s out of order", q.QueueID)
		}
	}
	return nil
}

const (
	manifestMagic   = "RMQM"
	manifestVersion = 1
)

// AppendBinary appends the manifest's encoding, big endian:
//
//	magic "RMQM" 4 | version 2 | segment size 8 | min 8 | end 8 | part 4
//	digest 4, for each segment
//	number of topics 4, each: topic, number of queues 4,
//	    each: queue 4 | max 8 | sums 4 | part 4
//	CRC-32C of all before 4
//
//	topic:  length 1 | name | incarnation 8
func (m *Manifest) AppendBinary(dst []byte) ([]byte, error) {
	if err := m.validate(); err != nil {
		return dst, err
	}
	be := binary.BigEndian
	begin := len(dst)
	dst = append(dst, manifestMagic...)
	dst = be.AppendUint16(dst, manifestVersion)
	for _, v := range [...]int64{m.SegmentSize, m.Min, m.End} {
		dst = be.AppendUint64(dst, uint64(v))
	}
	dst = be.AppendUint32(dst, m.Part)
	for _, d := range m.Digests {
		dst = be.AppendUint32(dst, d)
	}
	count := len(dst)
	dst = be.AppendUint32(dst, 0)
	topics := uint32(0)
	for queues := m.Queues; len(queues) > 0; topics++ {
		n := 1
		for n < len(queues) && queues[n].topic() == queues[0].topic() {
			n++
		}
		dst = appendTopic(dst, queues[0].topic())
		dst = be.AppendUint32(dst, uint32(n))
		for _, q := range queues[:n] {
			dst = be.AppendUint32(dst, uint32(q.Queue))
			dst = be.AppendUint64(dst, uint64(q.Max))
			dst = be.AppendUint32(dst, q.Sums)
			dst = be.AppendUint32(dst, q.Part)
		}
		queues = queues[n:]
	}
	be.PutUint32(dst[count:], topics)
	return be.AppendUint32(dst, crc32.Checksum(dst[begin:], castagnoli)), nil
}

func appendTopic(dst []byte, t TopicID) []byte {
	dst = append(dst, byte(len(t.Topic)))
	dst = append(dst, t.Topic...)
	return binary.BigEndian.AppendUint64(dst, t.Incarnation)
}

// ParseManifest is the inverse of AppendBinary. It takes exactly one manifest,
// and refuses one that AppendBinary would not have written: ErrCorrupt, or
// ErrVersion.
func ParseManifest(b []byte) (*Manifest, error) {
	d, err := newDecoder("manifest", manifestMagic, manifestVersion, b)
	if err != nil {
		return nil, err
	}
	m := &Manifest{SegmentSize: d.int64(), Min: d.int64(), End: d.int64(), Part: d.uint32()}
	if err := d.end(); err != nil {
		return nil, err
	}
	if m.SegmentSize <= 0 || m.Min < 0 || m.End < m.Min {
		return nil, m.validate()
	}
	d.each(uint64(m.End-m.Min+m.SegmentSize-1)/uint64(m.SegmentSize), 4, func() {
		m.Digests = append(m.Digests, d.uint32())
	})
	d.each(uint64(d.uint32()), 9+4, func() {
		t := d.topic()
		d.each(uint64(d.uint32()), 20, func() {
			m.Queues = append(m.Queues, QueueState{
				QueueID: QueueID{t.Topic, t.Incarnation, int32(d.uint32())},
				Max:     d.int64(), Sums: d.uint32(), Part: d.uint32(),
			})
		})
	})
	if err := d.finish(); err != nil {
		return nil, err
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	if again, err := m.AppendBinary(make([]byte, 0, len(b))); err != nil || !slices.Equal(again, b) {
		return nil, fmt.Errorf("%w: manifest: not in its one form", ErrCorrupt)
	}
	return m, nil
}
