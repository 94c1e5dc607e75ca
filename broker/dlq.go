package broker

import (
	"context"
	"errors"
	"math"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// maxLetters bounds the dead letters on a page, letterBytes what they have
	// together, but for the first.
	maxLetters  = 256
	letterBytes = 1 << 20
	// maxTrims bounds how often a page is begun anew as the CommitLog was trimmed.
	maxTrims = 3
	// letterQueue is the queue of a dead letter topic.
	letterQueue = 0
)

// deadLetters answers raftmq's DEAD_LETTERS (30011): dead letters of a consumer
// group, found by id or key, or a page of them in the order they came. Nothing is
// consumed by that. A group that has none has an empty page. RocketMQ's tools read
// the topic %DLQ%group like any other.
func (b *Broker) deadLetters(ctx context.Context, _ *session, req *remoting.Command) (answer, error) {
	var h remoting.DeadLetterQuery
	if err := h.Decode(req); err != nil {
		return answer{}, err
	}
	if h.From < 0 || h.Begin < 0 || h.End < 0 || h.Max < 0 {
		return answer{}, remoting.Errorf(remoting.InvalidParameter, "from %d, beginTimestamp %d, endTimestamp %d, maxNum %d: want none below 0", h.From, h.Begin, h.End, h.Max)
	}
	topic, err := b.lettersOf(h.Group)
	if err != nil {
		return answer{}, err
	}
	p := letters{b: b, page: remoting.DeadLetterPage{Next: h.From}}
	if topic != nil {
		p.queue = storage.QueueID{Topic: topic.Config.Name, Incarnation: topic.Incarnation, Queue: letterQueue}
		if h.ID != "" || h.Key != "" {
			err = p.find(ctx, &h)
		} else {
			err = p.list(&h)
		}
	}
	if err != nil {
		return answer{}, err
	}
	return answer{header: &p.page, body: p.body}, nil
}

// lettersOf is the topic of a group's dead letters; nil if there is none yet.
func (b *Broker) lettersOf(group string) (*fsm.Topic, error) {
	if err := remoting.CheckGroup(group); err != nil {
		return nil, err
	}
	if t, ok := b.group.State().Topic(remoting.DLQTopic(group)); ok {
		return &t, nil
	}
	if _, ok := b.group.State().Group(group); !ok {
		return nil, remoting.Errorf(remoting.SubscriptionGroupNotExist, "consumer group %s does not exist on %s, and has no dead letters there", group, b.name)
	}
	return nil, nil
}

// letters is a page of dead letters being made.
type letters struct {
	b     *Broker
	queue storage.QueueID
	page  remoting.DeadLetterPage
	body  []byte
}

// add puts a letter on the page, unless it is full.
func (p *letters) add(v remoting.RecordView, limit int) bool {
	if n := len(p.page.Handled); n >= limit || n > 0 && len(p.body)+v.Size() > letterBytes {
		return false
	}
	handled := "0"
	q := p.queue
	if q.Queue = v.QueueID(); p.b.group.State().Settled(q, v.QueueOffset()) {
		handled = "1"
	}
	p.page.Handled += handled
	p.body = append(p.body, v.Bytes()...)
	return true
}

// list makes a page of what the queue has from an offset and a time on.
func (p *letters) list(h *remoting.DeadLetterQuery) error {
	q := p.b.group.Store().Queue(p.queue)
	if q == nil {
		return nil
	}
	limit := maxLetters
	if h.Max > 0 {
		limit = min(limit, int(h.Max))
	}
	err := p.walk(q, h, limit)
	for range maxTrims {
		if !errors.Is(err, storage.ErrTrimmed) {
			break
		}
		// What was first has gone meanwhile. Either that is what follows on the next
		// page, or this one begins with what is first now.
		if len(p.body) > 0 {
			p.page.More = true
			return nil
		}
		err = p.walk(q, h, limit)
	}
	return elsewhere(err)
}

func (p *letters) walk(q *storage.Queue, h *remoting.DeadLetterQuery, limit int) error {
	r, err := rangeOf(q)
	if err != nil {
		return err
	}
	next := max(r.first, h.From)
	if h.Begin > 0 {
		begin, err := q.OffsetByTime(h.Begin, storage.Lower)
		if err != nil {
			return err
		}
		next = max(next, begin)
	}
	var units []storage.Unit
	for p.page.Next = next; p.page.Next < r.end; p.page.Next++ {
		if len(units) == 0 {
			if units, err = q.Units(p.page.Next, min(64, int(r.end-p.page.Next)), nil); len(units) == 0 {
				return err
			}
		}
		v, err := p.b.record(units[0].Phys)
		if err != nil {
			return err
		}
		units = units[1:]
		if h.End > 0 && v.StoreTimestamp() > h.End {
			return nil
		}
		if !p.add(v, limit) {
			p.page.More = true
			return nil
		}
	}
	return nil
}

// find puts on the page the letters that have an id or a key.
func (p *letters) find(ctx context.Context, h *remoting.DeadLetterQuery) error {
	if h.ID != "" {
		if v, err := p.b.letter(p.queue.Topic, h.ID); err == nil {
			p.add(v, 1)
			return nil
		}
	}
	key, end := h.ID, h.End
	if key == "" {
		key = h.Key
	}
	if end == 0 {
		end = math.MaxInt64
	}
	found, err := p.b.group.Store().Search(ctx, p.queue.Topic, key, h.Begin, end, maxQueryNum)
	for _, phys := range found {
		v, err := p.b.message(phys)
		if err != nil {
			continue // trimmed since, or not here at present
		}
		switch at := v.StoreTimestamp(); {
		case h.ID != "" && v.Properties().Get(remoting.PropUniqKey) != h.ID:
			continue // it is a key of another message
		case at < h.Begin || at > end: // the index has seconds
			continue
		}
		if !p.add(v, maxQueryNum) {
			break
		}
	}
	if len(p.body) == 0 && err != nil {
		return remoting.Errorf(remoting.ServiceNotAvailable, "the index of keys is not complete here, try again in a moment: %v", err)
	}
	return nil
}

// letter finds the message of a topic that an OffsetMsgID names.
func (b *Broker) letter(topic, id string) (v remoting.RecordView, err error) {
	_, phys, err := remoting.ParseOffsetMsgID(id)
	if err != nil {
		return v, err
	}
	if v, err = b.message(phys); err != nil {
		return v, err
	}
	if v.Topic() != topic || v.OffsetMsgID() != id {
		return v, remoting.Errorf(remoting.InvalidParameter, "the message %.64s is not in %s", id, topic)
	}
	return v, nil
}

// elsewhere says of what is not on this replica at present that another has it.
func elsewhere(err error) error {
	if errors.Is(err, storage.ErrMissing) {
		return remoting.Errorf(remoting.ServiceNotAvailable, "this replica is being completed: %v", err)
	}
	return err
}
