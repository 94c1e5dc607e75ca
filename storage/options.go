package storage

import (
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/storage/disk"
)

// Options configures a Store. Dir and UnitOf are required.
type Options struct {
	FS  disk.FS // default disk.OS()
	Dir string  // made if it is not there

	// Cluster, Group and Replica say whose data it is: a directory that was made
	// for others is refused.
	Cluster, Group, Replica string

	// SegmentSize is the size of a CommitLog segment in bytes: a multiple of
	// 4096, at most 2 GiB, default 1 GiB. The bytes of the log depend on it, so
	// it is the same on all replicas and never changes.
	SegmentSize int64

	// MaxOpenFiles bounds the descriptors for queues and cold segments. Default
	// 512. A dozen more are in use while the log is written.
	MaxOpenFiles int

	// HotBytes is how much of the log's end View serves from memory mappings,
	// unchecked, if this process has written it. Default 256 MiB.
	HotBytes int64

	// Reserve is the free space below which Room refuses. Default 256 MiB.
	Reserve int64

	Logger hclog.Logger // default: none

	// UnitOf gives the queue unit that follows from a record; ok is false for a
	// record that is in no queue, or in one that is no more. It must give the
	// same for the same record always, and may be called from any goroutine.
	UnitOf func(record []byte) (q QueueID, offset int64, u Unit, ok bool)

	// KeysOf gives the index keys that follow from a record, with its physical
	// offset and store time. As UnitOf. Nil: the store has no index.
	KeysOf func(record []byte) []IndexKey

	// OnAppend, if set, is told by Write which queues have new units. It must
	// not block and not keep the slice.
	OnAppend func([]*Queue)

	// OnRepair, if set, is told, from any goroutine, that Missing or Complete
	// may have changed. It must not block.
	OnRepair func()
}

func checkSegmentSize(n int64) error {
	if n < blockSize || n > 1<<31 || n%blockSize != 0 {
		return fmt.Errorf("segment size %d is not a multiple of %d up to 2 GiB", n, blockSize)
	}
	return nil
}

func (o *Options) validate() error {
	if o.FS == nil {
		o.FS = disk.OS()
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = 1 << 30
	}
	if o.MaxOpenFiles == 0 {
		o.MaxOpenFiles = 512
	}
	if o.HotBytes == 0 {
		o.HotBytes = 256 << 20
	}
	if o.Reserve == 0 {
		o.Reserve = 256 << 20
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Dir == "" || o.UnitOf == nil {
		return errors.New("storage: Dir and UnitOf are required")
	}
	if err := checkSegmentSize(o.SegmentSize); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	if o.MaxOpenFiles < 0 || o.HotBytes < 0 || o.Reserve < 0 {
		return fmt.Errorf("storage: MaxOpenFiles %d, HotBytes %d or Reserve %d is negative", o.MaxOpenFiles, o.HotBytes, o.Reserve)
	}
	return nil
}
