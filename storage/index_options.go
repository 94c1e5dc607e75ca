package storage

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/storage/disk"
)

// IndexOptions configures an Index. Only FS and Dir are required.
type IndexOptions struct {
	FS  disk.FS
	Dir string // directory of the run files, nobody else's; made if it is not there

	// Identity is a number that names the CommitLog. Run files that carry
	// another are foreign and left alone. Default 0.
	Identity uint64

	// MemoryBytes bounds the keys in memory: those being added, those waiting
	// to be written, and the copy that is being sorted. Default 16 MiB, about
	// 460,000 keys; at least 64 KiB. Memory is taken as keys come. On top of it
	// come about 0.3 MiB per flush, up to 3 MiB while a merge runs, 4 KiB per run
	// file, and half of MemoryBytes for each IndexFill.
	MemoryBytes int64

	// MaxRunEntries bounds a run file. Default 16 Mi entries, 321 MiB. It is the
	// unit that a trim deletes and that damage costs.
	MaxRunEntries int64

	// StallTimeout is how long Append waits for the flusher when MemoryBytes are
	// used up, before it drops keys until there is room again. Default 1 s.
	StallTimeout time.Duration

	Logger hclog.Logger // default: none

	// For tests: a weak hash, small tables.
	hash         func(topic, key string) uint64
	tableEntries int
}

const (
	indexTables       = 3 // one being added to, two waiting
	indexFanoutBits   = 3
	indexFanout       = 1 << indexFanoutBits // runs of one level to a merge
	indexMaxMerge     = 32                   // runs to a merge, smaller ones between them counted
	indexManyRuns     = 64                   // of less than half the largest size
	indexMinMemory    = 64 << 10
	indexRetryMin     = 100 * time.Millisecond // of a failed flush or merge, doubling
	indexRetryMax     = 30 * time.Second
	indexBytesPerSlot = indexTables*(indexEntryBytes+indexSlotBytes) + indexEntryBytes
)

func (o *IndexOptions) validate() error {
	if o.MemoryBytes == 0 {
		o.MemoryBytes = 16 << 20
	}
	if o.MaxRunEntries == 0 {
		o.MaxRunEntries = 16 << 20
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = time.Second
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.hash == nil {
		o.hash = indexHash
	}
	switch {
	case o.FS == nil || o.Dir == "":
		return errors.New("index: FS and Dir are required")
	case o.MemoryBytes < indexMinMemory || o.MemoryBytes > math.MaxUint32:
		return fmt.Errorf("index: MemoryBytes %d is not within [%d, %d]", o.MemoryBytes, indexMinMemory, uint32(math.MaxUint32))
	case o.MaxRunEntries < indexChunk || o.MaxRunEntries > indexFormatMax/2:
		return fmt.Errorf("index: MaxRunEntries %d is not within [%d, %d]", o.MaxRunEntries, indexChunk, int64(indexFormatMax/2))
	case o.StallTimeout < 0:
		return fmt.Errorf("index: StallTimeout %v is negative", o.StallTimeout)
	}
	if o.tableEntries == 0 {
		o.tableEntries = int(min(o.MemoryBytes/indexBytesPerSlot, o.MaxRunEntries))
	}
	return nil
}
