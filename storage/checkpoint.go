package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path"

	"github.com/raftmq/raftmq/storage/disk"
)

// checkpoint is what this replica knows to be synced: a manifest, and in what
// the files differ from it. Unlike the manifest it is this replica's own.
type checkpoint struct {
	seq      uint64 // of two checkpoints the higher one is newer
	manifest *Manifest
	// floor is how far a committed trim has removed files: a replay that begins
	// before that trim need not look for them.
	floor int64
	// index is up to where the index files have all keys, and are synced.
	index int64
	// missing are the ranges of the CommitLog that are not here, or not synced.
	missing spans
	// queues are the queues whose files are not as the manifest says.
	queues []queueFacts
	// doomed are deleted topics that no manifest names any more but whose files
	// may still be here.
	doomed []TopicID
}

// queueFacts says in what a queue's files differ from the manifest.
type queueFacts struct {
	id    QueueID
	front int64 // the lowest unit that is here
	// local is the CRC of what the file has of the block that is not whole, if
	// that is not what the manifest says.
	local    uint32
	hasLocal bool
	holes    []holeState
}

// holeState is a hole as it is stored: units [lo, hi) are not in the files. Their
// records are in [from, to) of the log, or from is -1 and that is to be found
// out. skip says that the log may have been trimmed into that range, so that the
// first units need not be there. lead is the CRC of the units before lo in its
// block.
type holeState struct {
	lo, hi   int64
	from, to int64
	skip     bool
	lead     uint32
}

func (h holeState) valid() bool {
	return 0 <= h.lo && h.lo < h.hi && (h.from == -1 || 0 <= h.from && h.from <= h.to)
}

const (
	checkpointMagic   = "RMQC"
	checkpointVersion = 1

	factLocal = 1 << 0
	holeSkip  = 1 << 0
)

// encode appends, big endian:
//
//	magic "RMQC" 4 | version 2 | seq 8 | floor 8 | index 8
//	length of the manifest 4 | manifest
//	number of missing ranges 4, each: from 8 | to 8
//	number of queues 4, each:
//	    topic | queue 4 | flags 1 | front 8 | local 4
//	    number of holes 4, each: lo 8 | hi 8 | from 8 | to 8 | flags 1 | lead 4
//	number of doomed topics 4, each: topic
//	CRC-32C of all before 4
func (c *checkpoint) encode() ([]byte, error) {
	be := binary.BigEndian
	b := append([]byte(nil), checkpointMagic...)
	b = be.AppendUint16(b, checkpointVersion)
	b = be.AppendUint64(b, c.seq)
	b = be.AppendUint64(b, uint64(c.floor))
	b = be.AppendUint64(b, uint64(c.index))
	at := len(b)
	b, err := c.manifest.AppendBinary(be.AppendUint32(b, 0))
	if err != nil {
		return nil, err
	}
	be.PutUint32(b[at:], uint32(len(b)-at-4))
	b = be.AppendUint32(b, uint32(len(c.missing)))
	for _, s := range c.missing {
		b = be.AppendUint64(b, uint64(s.from))
		b = be.AppendUint64(b, uint64(s.to))
	}
	b = be.AppendUint32(b, uint32(len(c.queues)))
	for _, q := range c.queues {
		b = appendTopic(b, q.id.topic())
		b = be.AppendUint32(b, uint32(q.id.Queue))
		b = append(b, flag(q.hasLocal, factLocal))
		b = be.AppendUint64(b, uint64(q.front))
		b = be.AppendUint32(b, q.local)
		b = be.AppendUint32(b, uint32(len(q.holes)))
		for _, h := range q.holes {
			if !h.valid() {
				return nil, fmt.Errorf("storage: checkpoint: hole %+v of queue %s", h, q.id)
			}
			for _, v := range [...]int64{h.lo, h.hi, h.from, h.to} {
				b = be.AppendUint64(b, uint64(v))
			}
			b = append(b, flag(h.skip, holeSkip))
			b = be.AppendUint32(b, h.lead)
		}
	}
	b = be.AppendUint32(b, uint32(len(c.doomed)))
	for _, t := range c.doomed {
		b = appendTopic(b, t)
	}
	return be.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

func parseCheckpoint(b []byte) (*checkpoint, error) {
	d, err := newDecoder("checkpoint", checkpointMagic, checkpointVersion, b)
	if err != nil {
		return nil, err
	}
	c := &checkpoint{seq: d.uint64(), floor: d.int64(), index: d.int64()}
	n := d.uint32()
	if uint64(n) > uint64(len(d.b)) {
		d.fail("the manifest is longer than what follows")
		return nil, d.err
	}
	if c.manifest, err = ParseManifest(d.take(int(n))); err != nil {
		return nil, err
	}
	d.each(uint64(d.uint32()), 16, func() {
		s := span{d.int64(), d.int64()}
		if s.from < 0 || s.from >= s.to || s.from%blockSize != 0 ||
			len(c.missing) > 0 && s.from <= c.missing[len(c.missing)-1].to {
			d.fail(fmt.Sprintf("missing range [%d, %d)", s.from, s.to))
			return
		}
		c.missing = append(c.missing, s)
	})
	d.each(uint64(d.uint32()), 9+4+1+8+4+4, func() {
		t := d.topic()
		q := queueFacts{id: QueueID{t.Topic, t.Incarnation, int32(d.uint32())}}
		q.hasLocal = d.flag(factLocal)
		q.front, q.local = d.int64(), d.uint32()
		d.each(uint64(d.uint32()), 4*8+1+4, func() {
			h := holeState{lo: d.int64(), hi: d.int64(), from: d.int64(), to: d.int64()}
			h.skip, h.lead = d.flag(holeSkip), d.uint32()
			if !h.valid() {
				d.fail(fmt.Sprintf("hole [%d, %d) of queue %s", h.lo, h.hi, q.id))
			}
			q.holes = append(q.holes, h)
		})
		if q.front < 0 {
			d.fail(fmt.Sprintf("queue %s begins at %d", q.id, q.front))
		}
		c.queues = append(c.queues, q)
	})
	d.each(uint64(d.uint32()), 9, func() {
		t := d.topic()
		if CheckTopic(t.Topic) != nil {
			d.fail(fmt.Sprintf("doomed topic %q", t))
		}
		c.doomed = append(c.doomed, t)
	})
	if c.floor < 0 || c.index < 0 {
		d.fail("negative position")
	}
	if err := d.finish(); err != nil {
		return nil, err
	}
	return c, nil
}

// A checkpoint takes the place of the older of two files, so that damage to one
// leaves the other. It is written under another name first: what a crash leaves
// under these is whole, and one that is not is damaged.
func checkpointPath(dir string, seq uint64) string {
	return dir + "/checkpoint." + string(rune('0'+seq%2))
}

const checkpointTemporary = "checkpoint.tmp"

// loadCheckpoint reads both files and returns the newer good one, an empty one if
// there is none. damaged are those that are no good.
func loadCheckpoint(fsys disk.FS, dir string, segmentSize int64) (c *checkpoint, damaged []Problem, err error) {
	for slot := range uint64(2) {
		name := checkpointPath(dir, slot)
		b, err := readWhole(fsys, LabelCheckpoint, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil && !isDamage(err) {
			return nil, nil, err
		}
		var p *checkpoint
		if err == nil {
			p, err = parseCheckpoint(b)
		}
		switch {
		case errors.Is(err, ErrVersion):
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		case err != nil:
			damaged = append(damaged, Problem{path.Base(name), -1, err.Error()})
		case c == nil || p.seq > c.seq:
			c = p
		}
	}
	if c == nil {
		c = &checkpoint{manifest: &Manifest{SegmentSize: segmentSize}}
	}
	if c.manifest.SegmentSize != segmentSize {
		return nil, nil, fmt.Errorf("%w: the checkpoint is for segments of %d bytes, the store has %d",
			ErrForeign, c.manifest.SegmentSize, segmentSize)
	}
	return c, damaged, nil
}

// saveCheckpoint writes and syncs c. For whoever holds maintain.
func (s *Store) saveCheckpoint(c *checkpoint) error {
	c.seq = s.checkpoint.seq + 1
	b, err := c.encode()
	if err != nil {
		return err
	}
	tmp := s.dir + "/" + checkpointTemporary
	if err := writeWhole(s.fs, LabelCheckpoint, tmp, b); err != nil {
		return err
	}
	if err := s.fs.Rename(LabelCheckpoint, tmp, checkpointPath(s.dir, c.seq)); err != nil {
		return err
	}
	if err := s.fs.SyncDir(LabelCheckpoint, s.dir); err != nil {
		return err
	}
	s.checkpoint = c
	return nil
}

func readWhole(fsys disk.FS, label disk.Label, name string) ([]byte, error) {
	f, err := fsys.OpenFile(label, name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil {
		b := make([]byte, size)
		if _, err = f.ReadAt(b, 0); err == nil || size == 0 {
			return b, f.Close()
		}
	}
	return nil, errors.Join(err, f.Close())
}

// writeWhole makes b the content of a file, and syncs it. A crash meanwhile
// leaves anything there.
func writeWhole(fsys disk.FS, label disk.Label, name string, b []byte) error {
	f, err := fsys.OpenFile(label, name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Truncate(int64(len(b)))
	}
	if err == nil {
		err = f.Datasync()
	}
	return errors.Join(err, f.Close())
}

// same says whether two manifests say the same.
func (m *Manifest) same(o *Manifest) bool {
	a, errA := m.AppendBinary(nil)
	b, errB := o.AppendBinary(nil)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}
