package raftlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// FlushMode says when StoreLogs returns.
type FlushMode int

const (
	// SyncFlush: when the entries are on the disk.
	SyncFlush FlushMode = iota
	// AsyncFlush: when the operating system has them. They outlive the process;
	// a power loss takes what Options.FlushInterval had not synced yet.
	AsyncFlush
)

// Options of a Log. The zero value is valid: the defaults are given below.
type Options struct {
	// Create allows to make a new log where there is none. Without it a
	// directory that has lost its log is an error, not an empty log.
	Create bool
	// SegmentBytes is the size of new segment files, default 64 MiB, at least
	// 64 KiB. An entry must fit. Logs with segments of another size open too.
	SegmentBytes int64
	// FreeSegments is how many segments that left the log are kept to be used
	// again, default 8, negative for none. Zero-filling a new one costs as much
	// as writing it once more: about what a snapshot frees is right.
	FreeSegments int
	// CacheBytes bounds the entries kept in memory for GetLog, default 32 MiB,
	// negative for none.
	CacheBytes int64
	// Flush is SyncFlush or AsyncFlush. FlushInterval is the time between two
	// syncs in AsyncFlush, default 500 ms.
	Flush         FlushMode
	FlushInterval time.Duration
	// BootID tells one run of the machine from the next
	// (/proc/sys/kernel/random/boot_id). AsyncFlush needs it, and so does a log
	// that may have been open in AsyncFlush before.
	BootID string
	// Room, if set, is asked before these entries are written: an error refuses
	// them (wrapped in ErrNoSpace) and changes nothing.
	Room func(logs []*raft.Log) error
	// Logger gets what recovery found and what the background does. Default none.
	Logger hclog.Logger

	logID uint64 // tests: instead of a random one
}

func (o *Options) validate() error {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.SegmentBytes, 64<<20)
	def(&o.CacheBytes, 32<<20)
	if o.FreeSegments == 0 {
		o.FreeSegments = 8
	}
	if o.FlushInterval == 0 {
		o.FlushInterval = 500 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	switch {
	case o.SegmentBytes < minSegmentBytes || o.SegmentBytes > maxSegmentBytes || o.SegmentBytes%slotDistance != 0:
		return fmt.Errorf("raftlog: SegmentBytes %d: want a multiple of %d from %d to %d",
			o.SegmentBytes, slotDistance, minSegmentBytes, maxSegmentBytes)
	case o.Flush != SyncFlush && o.Flush != AsyncFlush:
		return fmt.Errorf("raftlog: Flush %d: want SyncFlush or AsyncFlush", o.Flush)
	case o.FlushInterval < 0:
		return fmt.Errorf("raftlog: FlushInterval %v is negative", o.FlushInterval)
	case o.Flush == AsyncFlush && o.BootID == "":
		return errors.New("raftlog: AsyncFlush needs a BootID")
	case len(o.BootID) > maxBootID:
		return fmt.Errorf("raftlog: BootID has %d bytes, at most %d are allowed", len(o.BootID), maxBootID)
	}
	return nil
}

// The labels that operations on the disk carry, for tests that make one kind
// of them fail.
const (
	LabelDir     disk.Label = "raftlog.dir"     // directories: make, list, sync, rename, remove, lock
	LabelScan    disk.Label = "raftlog.scan"    // opening and reading segments at start
	LabelResync  disk.Label = "raftlog.resync"  // writing the tail again at start
	LabelHeader  disk.Label = "raftlog.header"  // segment headers
	LabelAppend  disk.Label = "raftlog.append"  // entries
	LabelPrepare disk.Label = "raftlog.prepare" // zero-filling a new segment
	LabelRead    disk.Label = "raftlog.read"    // GetLog
	LabelScrub   disk.Label = "raftlog.scrub"   // Scrub
	LabelMark    disk.Label = "raftlog.mark"    // the mark of unsynced entries

	LabelSnapshot disk.Label = "raftlog.snapshot" // snapshot files
	LabelStable   disk.Label = "raftlog.stable"   // making the stable store's file
)
