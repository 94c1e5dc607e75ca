package storage

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"strconv"
	"strings"

	"github.com/raftmq/raftmq/storage/disk"
)

// The format file says whose directory it is and how it is laid out. It is
// written once, and is text so that a person can read it:
//
//	raftmq storage 1
//	segment-size 1073741824
//	cluster "c"
//	group "g"
//	replica "r"
//	crc32c 0a1b2c3d          of all lines before
const (
	formatFile    = "format"
	formatMagic   = "raftmq storage "
	formatVersion = 1
)

type format struct {
	segmentSize             int64
	cluster, group, replica string
}

func (f format) encode() []byte {
	text := fmt.Sprintf("%s%d\nsegment-size %d\ncluster %q\ngroup %q\nreplica %q\n",
		formatMagic, formatVersion, f.segmentSize, f.cluster, f.group, f.replica)
	return fmt.Appendf([]byte(text), "crc32c %08x\n", crc32.Checksum([]byte(text), castagnoli))
}

func parseFormat(b []byte) (f format, err error) {
	text := string(b)
	at := strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n") + 1
	var sum uint32
	if _, err := fmt.Sscanf(text[at:], "crc32c %x\n", &sum); err != nil || sum != crc32.Checksum(b[:at], castagnoli) {
		return f, fmt.Errorf("%w: format file: bad checksum", ErrCorrupt)
	}
	version, rest, _ := strings.Cut(strings.TrimPrefix(text[:at], formatMagic), "\n")
	if v, err := strconv.Atoi(version); err != nil || v != formatVersion {
		return f, fmt.Errorf("%w: format %q, this one reads %d", ErrVersion, version, formatVersion)
	}
	_, err = fmt.Sscanf(rest, "segment-size %d\ncluster %q\ngroup %q\nreplica %q\n", &f.segmentSize, &f.cluster, &f.group, &f.replica)
	if err != nil || string(f.encode()) != text {
		return f, fmt.Errorf("%w: format file is not as this release writes it", ErrCorrupt)
	}
	return f, nil
}

// openFormat compares the directory's format with the one asked for, and writes
// it if the directory is new.
func openFormat(fsys disk.FS, dir string, want format) error {
	name := dir + "/" + formatFile
	b, err := readWhole(fsys, LabelFormat, name)
	if errors.Is(err, fs.ErrNotExist) {
		return createFormat(fsys, dir, want)
	}
	if err != nil {
		return err
	}
	have, err := parseFormat(b)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case have != want:
		return fmt.Errorf("%w: %s is of cluster %q, group %q, replica %q with segments of %d bytes; asked for is cluster %q, group %q, replica %q with segments of %d bytes",
			ErrForeign, dir, have.cluster, have.group, have.replica, have.segmentSize,
			want.cluster, want.group, want.replica, want.segmentSize)
	}
	return nil
}

func createFormat(fsys disk.FS, dir string, want format) error {
	entries, err := fsys.ReadDir(LabelDir, dir)
	if err != nil {
		return err
	}
	tmp := formatFile + ".tmp"
	for _, e := range entries {
		if name := e.Name(); name != lockFile && name != tmp {
			return fmt.Errorf("%w: %s has no format file, but %q in it: it is not a store, or the file was lost", ErrForeign, dir, name)
		}
	}
	return writeFormat(fsys, dir, want.encode())
}

// writeFormat makes text the format file.
func writeFormat(fsys disk.FS, dir string, text []byte) error {
	tmp := formatFile + ".tmp"
	if err := writeWhole(fsys, LabelFormat, dir+"/"+tmp, text); err != nil {
		return err
	}
	if err := fsys.Rename(LabelFormat, dir+"/"+tmp, dir+"/"+formatFile); err != nil {
		return err
	}
	return fsys.SyncDir(LabelFormat, dir)
}
