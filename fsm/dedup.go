package fsm

import (
	"crypto/sha256"
	"encoding/binary"
)

// Key identifies a send: a 128-bit hash of topic, UNIQ_KEY and reconsumeTimes.
// It has to be that wide because a false match loses a message. The zero Key
// means that the send has no identity and is never taken for a repeat.
type Key [16]byte

// SendKey is the Key of one send. Retry copies keep the UNIQ_KEY of the message
// they copy, which is why reconsumeTimes is part of it. A batch is one send: the
// UNIQ_KEYs of its messages are given together, in order.
func SendKey(topic string, reconsumeTimes int32, uniqKeys ...[]byte) Key {
	buf := make([]byte, 0, 256)
	buf = appendString(buf, topic)
	buf = appendI32(buf, reconsumeTimes)
	for _, k := range uniqKeys {
		buf = appendBytes(buf, k)
	}
	sum := sha256.Sum256(buf)
	return Key(sum[:16])
}

// sent is what the window remembers of one send: what a repeat is answered with.
type sent struct {
	key         Key
	at          int64 // log time, ms
	queueOffset int64
	phys        int64
	queue       int32
	host        uint32 // index in State.hosts: the store host of the records
}

// nowhere is where a send is that was taken back: before all topics.
const nowhere = -1

const (
	sentSize  = 16 + 8 + 8 + 8 + 4 + 4 // encoded
	sentChunk = 4096                   // entries in one chunk
)

// window remembers the sends of the last span of log time, at most max of them.
// The oldest is forgotten first.
//
// Entries are written once, into chunks that never move: a snapshot keeps the
// chunks and their fill, and is not disturbed by what is appended later.
type window struct {
	span int64 // ms of log time
	max  int

	chunks [][]sent // the first holds entry number head - head%sentChunk
	head   uint64   // number of the oldest entry
	next   uint64   // number of the entry to come
	index  map[Key]uint64
}

func newWindow(span int64, limit int) *window {
	return &window{span: span, max: limit, index: map[Key]uint64{}}
}

func (w *window) at(n uint64) *sent {
	first := w.head - w.head%sentChunk
	n -= first
	return &w.chunks[n/sentChunk][n%sentChunk]
}

// expire forgets what is older than the window at this log time.
func (w *window) expire(now int64) {
	for w.head < w.next && (w.at(w.head).at+w.span < now || w.next-w.head > uint64(w.max)) {
		e := w.at(w.head)
		// A deliberate repeat has replaced the entry in the index.
		if w.index[e.key] == w.head {
			delete(w.index, e.key)
		}
		w.head++
		if w.head%sentChunk == 0 {
			w.chunks[0] = nil
			w.chunks = w.chunks[1:]
		}
	}
}

// find returns the last send with this key in the window.
func (w *window) find(k Key) (sent, bool) {
	n, ok := w.index[k]
	if !ok {
		return sent{}, false
	}
	return *w.at(n), true
}

func (w *window) add(e sent) {
	if w.max <= 0 {
		return
	}
	if w.next%sentChunk == 0 || len(w.chunks) == 0 {
		w.chunks = append(w.chunks, make([]sent, 0, sentChunk))
	}
	last := len(w.chunks) - 1
	w.chunks[last] = append(w.chunks[last], e)
	w.index[e.key] = w.next
	w.next++
	w.expire(e.at)
}

// pinned is a window as it was at one moment.
type pinned struct {
	span   int64
	max    int
	chunks [][]sent
	skip   int // entries of the first chunk that were forgotten
	n      int
}

func (w *window) pin() pinned {
	p := pinned{span: w.span, max: w.max, n: int(w.next - w.head)}
	p.skip = int(w.head % sentChunk)
	for _, c := range w.chunks {
		p.chunks = append(p.chunks, c[:len(c):len(c)])
	}
	return p
}

// each calls f with the pinned entries, oldest first.
func (p pinned) each(f func(sent)) {
	skip := p.skip
	for _, c := range p.chunks {
		for _, e := range c[min(skip, len(c)):] {
			f(e)
		}
		skip = 0
	}
}

func appendSent(dst []byte, e sent) []byte {
	dst = append(dst, e.key[:]...)
	dst = appendI64(dst, e.at)
	dst = appendI64(dst, e.queueOffset)
	dst = appendI64(dst, e.phys)
	dst = appendI32(dst, e.queue)
	return binary.BigEndian.AppendUint32(dst, e.host)
}

func (r *reader) sent() (e sent) {
	copy(e.key[:], r.take(len(e.key)))
	e.at = r.i64()
	e.queueOffset = r.i64()
	e.phys = r.i64()
	e.queue = r.i32()
	e.host = r.u32()
	return e
}
