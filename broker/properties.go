package broker

import (
	"fmt"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage"
)

const (
	// propertiesAtOnce and propertiesGap say how much is read in one go to get at
	// the properties of messages that lie close together.
	propertiesAtOnce = 64 << 10
	propertiesGap    = 4 << 10
)

// propertyReader reads the properties of messages, checked and into memory of its
// own: what we look at is never read through a mapping.
type propertyReader struct {
	store *storage.Store
	base  int64 // of what was read last
	bytes []byte
}

// properties are those of the first of some messages; the others are about to be
// asked for. They are good until the next call. The errors of Store.Read.
func (r *propertyReader) properties(units []storage.Unit) (remoting.Properties, error) {
	u := units[0]
	size := int64(u.Size)
	if at := u.Phys - r.base; at < 0 || at+size > int64(len(r.bytes)) {
		if err := r.read(units); err != nil {
			return nil, err
		}
	}
	v, err := remoting.ParseRecord(r.bytes[u.Phys-r.base:][:size])
	if err == nil && (v.PhysicalOffset() != u.Phys || v.Size() != int(size)) {
		err = fmt.Errorf("%w: the record at %d is another", storage.ErrCorrupt, u.Phys)
	}
	if err != nil {
		return nil, err
	}
	return v.Properties(), nil
}

// read reads the first message, and what lies close behind it.
func (r *propertyReader) read(units []storage.Unit) (err error) {
	first := units[0]
	end := first.Phys + int64(first.Size)
	for _, u := range units[1:] {
		behind := u.Phys + int64(u.Size)
		if u.Phys < end || u.Phys-end > propertiesGap || behind-first.Phys > propertiesAtOnce {
			break
		}
		end = behind
	}
	if r.bytes, err = r.store.Read(first.Phys, int(end-first.Phys)); err != nil && end > first.Phys+int64(first.Size) {
		// Across the end of a segment, or one of them is not here.
		r.bytes, err = r.store.Read(first.Phys, int(first.Size))
	}
	r.base = first.Phys
	return err
}
