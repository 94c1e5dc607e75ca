package disk

import (
	"golang.org/x/sys/unix"
)

// colder is a file that can be read without leaving traces in the page cache.
type colder interface{ cold() File }

// Cold returns f as a file whose ReadAt leaves the page cache as it was: what it
// had to read from the disk is dropped again, what was in memory stays. For who
// reads everything once and must not push out what others need. f has to be a
// descriptor of its own: its read-ahead is turned off. Closing either closes
// both. Where there is no such thing it is f itself.
func Cold(f File) File {
	if c, ok := f.(colder); ok {
		return c.cold()
	}
	return f
}

func (o *osFile) cold() File {
	// Pages read ahead would look as if somebody needed them. That there is such
	// advice at all is a courtesy.
	_ = o.control("fadvise", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) })
	return &coldFile{o}
}

type coldFile struct{ *osFile }

func (c *coldFile) withLabel(label Label) File {
	return &coldFile{&osFile{f: c.f, label: label}}
}

// ReadAt reads what is in memory, then the rest from the disk.
func (c *coldFile) ReadAt(p []byte, off int64) (int, error) {
	have := 0
	err := c.control("preadv2", func(fd int) (err error) {
		have, err = unix.Preadv2(fd, [][]byte{p}, off, unix.RWF_NOWAIT)
		return err
	})
	if err != nil || have < 0 {
		have = 0 // nothing is in memory, or the file system can't tell
	}
	if have == len(p) {
		return have, nil
	}
	n, err := c.osFile.ReadAt(p[have:], off+int64(have))
	_ = c.control("fadvise", func(fd int) error {
		return unix.Fadvise(fd, off+int64(have), int64(n), unix.FADV_DONTNEED)
	})
	return have + n, err
}
