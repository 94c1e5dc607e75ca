package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// A snapshot is the state without the messages: the store's manifest says which
// bytes they are.
//
//	+------+---------+   +---------+--------+---------+--------+
//	| RMQS | version |   | section | length | payload | CRC32C |   meta, sends, files, end
//	| 4 B  | 2 B     |   | 1 B     | 8 B    | ...     | 4 B    |
//	+------+---------+   +---------+--------+---------+--------+
const (
	snapshotMagic   = "RMQS"
	snapshotVersion = 1

	sectionMeta  = 'M'
	sectionSends = 'S'
	sectionFiles = 'F'
	sectionEnd   = 'E'

	maxSection = 1 << 31
)

// ErrSnapshot is what a snapshot that can't be read wraps.
var ErrSnapshot = errors.New("fsm: bad snapshot")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot is the state at one index.
type Snapshot struct {
	Index uint64
	// Files is what the store held. It has to be durable before the snapshot
	// counts.
	Files *storage.Manifest

	meta  []byte
	sends pinned
}

// Snapshot returns the state as it is. For apply's goroutine.
func (s *State) Snapshot() (*Snapshot, error) {
	if s.failed != nil {
		return nil, s.failed
	}
	return &Snapshot{Index: s.applied, Files: s.store.Pin(), meta: s.appendMeta(nil), sends: s.sends.pin()}, nil
}

// Digest is a checksum of all of the state but the files: equal on all replicas
// that have applied the same entries. For apply's goroutine.
func (s *State) Digest() [sha256.Size]byte {
	h := sha256.New()
	h.Write(s.appendMeta(nil))
	var buf []byte
	s.sends.pin().each(func(e sent) {
		buf = appendSent(buf[:0], e)
		h.Write(buf)
	})
	return [sha256.Size]byte(h.Sum(nil))
}

// WriteTo writes the snapshot.
func (p *Snapshot) WriteTo(w io.Writer) (int64, error) {
	out := &sectionWriter{w: w}
	out.write(binary.BigEndian.AppendUint16([]byte(snapshotMagic), snapshotVersion))
	out.section(sectionMeta, p.meta)
	sends := make([]byte, 0, 8+4+4+p.sends.n*sentSize)
	sends = binary.BigEndian.AppendUint32(sends, uint32(p.sends.n))
	p.sends.each(func(e sent) { sends = appendSent(sends, e) })
	out.section(sectionSends, sends)
	files, err := p.Files.AppendBinary(nil)
	if err != nil {
		return out.n, err
	}
	out.section(sectionFiles, files)
	out.section(sectionEnd, nil)
	return out.n, out.err
}

type sectionWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (o *sectionWriter) write(b []byte) {
	if o.err != nil {
		return
	}
	n, err := o.w.Write(b)
	o.n += int64(n)
	o.err = err
}

func (o *sectionWriter) section(tag byte, payload []byte) {
	o.write(binary.BigEndian.AppendUint64([]byte{tag}, uint64(len(payload))))
	o.write(payload)
	o.write(binary.BigEndian.AppendUint32(nil, crc32.Checksum(payload, castagnoli)))
}

// readSection reads the section that has to come next.
func readSection(r io.Reader, want byte) ([]byte, error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("%w: section %q: %w", ErrSnapshot, want, err)
	}
	n := binary.BigEndian.Uint64(head[1:])
	if head[0] != want || n > maxSection {
		return nil, fmt.Errorf("%w: section %q of %d bytes where %q should be", ErrSnapshot, head[0], n, want)
	}
	// Grown as bytes arrive: the length alone allocates nothing.
	var payload bytes.Buffer
	if _, err := io.CopyN(&payload, r, int64(n)); err != nil {
		return nil, fmt.Errorf("%w: section %q: %w", ErrSnapshot, want, err)
	}
	var sum [4]byte
	if _, err := io.ReadFull(r, sum[:]); err != nil {
		return nil, fmt.Errorf("%w: section %q: %w", ErrSnapshot, want, err)
	}
	if binary.BigEndian.Uint32(sum[:]) != crc32.Checksum(payload.Bytes(), castagnoli) {
		return nil, fmt.Errorf("%w: section %q: checksum", ErrSnapshot, want)
	}
	return payload.Bytes(), nil
}

// Restore replaces the state by a snapshot's, and makes the store resume at its
// manifest. Nothing is replaced if the snapshot can't be read.
func (s *State) Restore(r io.Reader) error {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if string(head[:4]) != snapshotMagic {
		return fmt.Errorf("%w: it begins with %q", ErrSnapshot, head[:4])
	}
	if v := binary.BigEndian.Uint16(head[4:]); v != snapshotVersion {
		return fmt.Errorf("%w: version %d, this release reads %d", ErrSnapshot, v, snapshotVersion)
	}
	next := New(s.store, s.segmentSize)
	meta, err := readSection(r, sectionMeta)
	if err != nil {
		return err
	}
	if err := next.readMeta(meta); err != nil {
		return fmt.Errorf("%w: meta: %w", ErrSnapshot, err)
	}
	sends, err := readSection(r, sectionSends)
	if err != nil {
		return err
	}
	if err := next.readSends(sends); err != nil {
		return fmt.Errorf("%w: sends: %w", ErrSnapshot, err)
	}
	files, err := readSection(r, sectionFiles)
	if err != nil {
		return err
	}
	manifest, err := storage.ParseManifest(files)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if _, err := readSection(r, sectionEnd); err != nil {
		return err
	}
	if err := next.agrees(manifest); err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	s.adopt(next)
	if err := s.store.Resume(manifest); err != nil {
		return s.fail(err)
	}
	return nil
}

// adopt takes over what a restored state holds.
func (s *State) adopt(next *State) {
	s.applied, s.end, s.min, s.logTime, s.sequence = next.applied, next.end, next.min, next.logTime, next.sequence
	s.sends, s.hosts, s.failed = next.sends, next.hosts, nil
	s.batch = storage.Batch{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config, s.leader = next.config, next.leader
	s.topics, s.groups, s.offsets, s.schedule, s.settled = next.topics, next.groups, next.offsets, next.schedule, next.settled
	s.locks = next.locks
	s.lockChanges++
	s.topicChanges, s.groupChanges = next.topicChanges, next.groupChanges
	s.resets, s.resetChanges = next.resets, next.resetChanges
	s.starts, s.incidents = next.starts, next.incidents
	s.members, s.memberList, s.autopilot = next.members, next.memberList, next.autopilot
	s.memberChanges++
}

// agrees says whether a manifest describes the CommitLog this state knows.
func (s *State) agrees(m *storage.Manifest) error {
	if m.Min != s.min || m.End != s.end {
		return fmt.Errorf("the files hold the CommitLog from %d to %d, the state from %d to %d", m.Min, m.End, s.min, s.end)
	}
	return nil
}

// appendMeta encodes everything but the window of sends, in one way only.
func (s *State) appendMeta(b []byte) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b = binary.BigEndian.AppendUint64(b, s.applied)
	b = appendI64(b, s.end)
	b = appendI64(b, s.min)
	b = appendI64(b, s.logTime)
	b = binary.BigEndian.AppendUint64(b, s.sequence)
	b = appendJSON(b, s.config)
	b = appendJSON(b, s.leader)
	b = binary.BigEndian.AppendUint64(b, s.leader.Term)
	for _, c := range []Changes{s.topicChanges, s.groupChanges} {
		b = appendI64(b, c.Count)
		b = appendI64(b, c.Time)
	}
	b = appendCount(b, len(s.hosts))
	for _, h := range s.hosts {
		b = appendString(b, h)
	}
	b = appendCount(b, len(s.topics))
	for _, name := range slices.Sorted(maps.Keys(s.topics)) {
		t := s.topics[name]
		b = appendBytes(b, t.Config.AppendBody(nil))
		b = binary.BigEndian.AppendUint64(b, t.Incarnation)
		b = appendI64(b, t.Birth)
		b = appendCount(b, len(t.queues))
		for _, q := range t.queues {
			b = appendI64(b, q.next)
		}
	}
	b = appendCount(b, len(s.groups))
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		b = appendBytes(b, s.groups[name].AppendBody(nil))
	}
	b = appendCount(b, len(s.offsets))
	for _, k := range s.sortedOffsets() {
		b = appendString(b, k.topic)
		b = appendString(b, k.group)
		b = appendCount(b, len(s.offsets[k]))
		for _, o := range s.offsets[k] {
			b = appendI64(b, o)
		}
	}
	b = appendCount(b, len(s.schedule))
	for _, o := range s.schedule {
		b = appendI64(b, o)
	}
	return s.appendIncidents(s.appendMembers(s.appendStarts(s.appendLocks(s.appendResets(s.appendSettled(b))))))
}

func appendCount(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }

// appendJSON encodes a configuration: encoding/json sorts the keys of maps.
func appendJSON(b []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("fsm: encoding %T: %v", v, err)) // plain structs of strings and numbers
	}
	return appendBytes(b, text)
}

func (r *reader) json(v any) {
	if b := r.bytes(); r.err == nil {
		if err := json.Unmarshal(b, v); err != nil {
			r.fail(err)
		}
	}
}

func (s *State) readMeta(b []byte) error {
	r := reader{b: b}
	s.applied = r.u64()
	s.end = r.i64()
	s.min = r.i64()
	s.logTime = r.i64()
	s.sequence = r.u64()
	r.json(&s.config)
	r.json(&s.leader)
	s.leader.Term = r.u64()
	for _, c := range []*Changes{&s.topicChanges, &s.groupChanges} {
		c.Count = r.i64()
		c.Time = r.i64()
	}
	for range r.count(4) {
		s.hosts = append(s.hosts, r.string())
	}
	for range r.count(4 + 8 + 8 + 4) {
		var c remoting.TopicConfig
		r.body(r.bytes(), &c)
		t := newTopic(c, r.u64(), r.i64())
		n := r.count(8)
		if n > maxQueues {
			r.fail(fmt.Errorf("topic of %d queues", n))
			break
		}
		for i := range n {
			t.queue(int32(i)).next = r.i64()
		}
		s.topics[t.Config.Name] = t
	}
	for range r.count(4) {
		g := new(remoting.GroupConfig)
		r.body(r.bytes(), g)
		s.groups[g.Name] = g
	}
	for range r.count(4 + 4 + 4) {
		k := offsetKey{topic: r.string(), group: r.string()}
		n := r.count(8)
		if n > maxQueues {
			r.fail(fmt.Errorf("offsets in %d queues", n))
			break
		}
		offsets := make([]int64, n)
		for i := range offsets {
			offsets[i] = r.i64()
		}
		s.offsets[k] = offsets
	}
	for range r.count(8) {
		s.schedule = append(s.schedule, r.i64())
	}
	s.readSettled(&r)
	s.readResets(&r)
	s.readLocks(&r)
	s.readStarts(&r)
	s.readMembers(&r)
	s.readIncidents(&r)
	if err := r.end(); err != nil {
		return err
	}
	if s.end < 0 || s.min < 0 || s.min > s.end {
		return fmt.Errorf("CommitLog from %d to %d", s.min, s.end)
	}
	return s.fits(s.config)
}

func (s *State) readSends(b []byte) error {
	r := reader{b: b}
	s.sends = newWindow(s.config.DedupSpan, s.config.DedupMax)
	for range r.count(sentSize) {
		e := r.sent()
		if r.err == nil && int(e.host) >= len(s.hosts) {
			r.fail(fmt.Errorf("store host %d of %d", e.host, len(s.hosts)))
			break
		}
		s.sends.add(e)
	}
	return r.end()
}
