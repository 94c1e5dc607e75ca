package broker

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

// record reads the record at a physical offset, which may be anything a client
// has made up. It looks at the size before it reads, as the bytes there may claim
// any, and they may be those of a body.
func (b *Broker) record(phys int64) (v remoting.RecordView, err error) {
	store := b.group.Store()
	head, err := store.Read(phys, 4)
	if err != nil {
		return v, err
	}
	size := int64(binary.BigEndian.Uint32(head))
	if size < 4 || size > int64(b.cfg.FrameMaxLength)/2 {
		return v, fmt.Errorf("%w: no record begins at %d", storage.ErrCorrupt, phys)
	}
	rec, err := store.Read(phys, int(size))
	if err != nil {
		return v, err
	}
	if v, err = remoting.ParseRecord(rec); err != nil {
		return v, err
	}
	if v.PhysicalOffset() != phys || v.Size() != len(rec) {
		return v, fmt.Errorf("%w: no record begins at %d", storage.ErrCorrupt, phys)
	}
	return v, nil
}

// message reads a message at a physical offset that a client has named. The
// bytes there may look like a record and be part of a body: only what a queue
// points to is a message.
func (b *Broker) message(phys int64) (v remoting.RecordView, err error) {
	if v, err = b.record(phys); err != nil {
		return v, err
	}
	if q := b.queue(v.Topic(), v.QueueID()); q != nil && v.QueueOffset() >= 0 {
		units, err := q.Units(v.QueueOffset(), 1, nil)
		if err == nil && len(units) == 1 && units[0].Phys == phys {
			return v, nil
		}
		if err != nil && !errors.Is(err, storage.ErrTrimmed) {
			return v, err
		}
	}
	return v, fmt.Errorf("%w: no message of a topic begins at %d", storage.ErrCorrupt, phys)
}

// storeTime is when the record at a physical offset was stored.
func (b *Broker) storeTime(phys int64) (int64, error) {
	v, err := b.record(phys)
	if err != nil {
		return 0, err
	}
	return v.StoreTimestamp(), nil
}
