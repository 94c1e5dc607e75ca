package raftlog

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path"

	"github.com/raftmq/raftmq/storage/disk"
)

const (
	markName    = "unsynced"
	markMagic   = 0x4B4D4C52 // "RLMK"
	markVersion = 1
	markHeader  = 8
	maxBootID   = 255
)

// mark is the file that says that entries were acknowledged unsynced. It is
// there, durably, from before the first of them until a clean end. If another
// boot's mark is found, the machine went down in between, and entries that this
// replica acknowledged may be gone: it is suspect, until it is told that it has
// made up for them.
//
//	0        4        5         6        7       8         8+n     12+n
//	| magic  | version| suspect | length |   0   | boot id | CRC-32C |
type mark struct {
	boot    string
	suspect bool
}

func (m *mark) encode() []byte {
	b := binary.LittleEndian.AppendUint32(nil, markMagic)
	var suspect byte
	if m.suspect {
		suspect = 1
	}
	b = append(b, markVersion, suspect, byte(len(m.boot)), 0)
	b = append(b, m.boot...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeMark reads a mark. One that cannot be read is suspect: it is there.
func decodeMark(b []byte) mark {
	le := binary.LittleEndian
	if len(b) < markHeader+4 || le.Uint32(b) != markMagic || b[4] != markVersion || len(b) != markHeader+int(b[6])+4 ||
		crc32.Checksum(b[:len(b)-4], castagnoli) != le.Uint32(b[len(b)-4:]) {
		return mark{suspect: true}
	}
	return mark{boot: string(b[markHeader : len(b)-4]), suspect: b[5] != 0}
}

func (l *Log) markPath() string { return path.Join(l.dir, markName) }

// openMark judges a mark found at open, after all entries found were synced, and
// leaves the one that this run needs.
func (l *Log) openMark(found bool) error {
	if found {
		f, err := l.fs.OpenFile(LabelMark, l.markPath(), os.O_RDONLY)
		if err != nil {
			return err
		}
		b := make([]byte, markHeader+maxBootID+4+1)
		n, err := f.ReadAt(b, 0)
		if err == io.EOF {
			err = nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		l.mark = decodeMark(b[:n])
		l.mark.suspect = l.mark.suspect || l.mark.boot != l.opts.BootID
		if l.mark.suspect {
			l.opts.Logger.Warn("raft log: the machine went down while entries were not synced; some may be lost", "last_index", l.last)
		}
	}
	switch {
	case l.opts.Flush == AsyncFlush:
		return l.writeMark(mark{boot: l.opts.BootID, suspect: l.mark.suspect})
	case found && !l.mark.suspect:
		return l.removeMark()
	}
	return nil
}

// Suspect says whether entries that this replica acknowledged may be lost: it
// was in AsyncFlush when the machine went down. It stays so, through restarts,
// until ClearSuspect.
func (l *Log) Suspect() bool {
	l.headers.Lock()
	defer l.headers.Unlock()
	return l.mark.suspect
}

// ClearSuspect records that this replica has every entry it acknowledged again.
// What it has now is synced first: the next power loss may not take it away
// unmarked.
func (l *Log) ClearSuspect() error {
	done, err := l.change()
	defer done()
	if err != nil {
		return err
	}
	if err := l.syncTail(); err != nil {
		return err
	}
	l.headers.Lock()
	defer l.headers.Unlock()
	if !l.mark.suspect {
		return nil
	}
	if l.opts.Flush == AsyncFlush {
		err = l.writeMark(mark{boot: l.opts.BootID})
	} else {
		err = l.removeMark()
	}
	if err != nil {
		return l.poison.fail(err)
	}
	return nil
}

// closeMark removes the mark after a clean end, unless the replica is suspect.
func (l *Log) closeMark() error {
	if l.opts.Flush != AsyncFlush || l.mark.suspect {
		return nil
	}
	return l.removeMark()
}

func (l *Log) writeMark(m mark) error {
	tmp := l.markPath() + tmpSuffix
	f, err := l.fs.OpenFile(LabelMark, tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	err = writeSync(f, m.encode())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := l.fs.Rename(LabelMark, tmp, l.markPath()); err != nil {
		return err
	}
	l.mark = m
	return l.fs.SyncDir(LabelMark, l.dir)
}

func (l *Log) removeMark() error {
	if err := l.fs.Remove(LabelMark, l.markPath()); err != nil {
		return err
	}
	l.mark = mark{}
	return l.fs.SyncDir(LabelMark, l.dir)
}

func writeSync(f disk.File, b []byte) error {
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Datasync()
}
