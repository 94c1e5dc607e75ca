package storage

import (
	"errors"
	"fmt"
	"path"

	"github.com/raftmq/raftmq/storage/disk"
)

// VerifyIndex reads every run file in dir, changes nothing, and returns how many
// there are and, joined, what is wrong with each that is damaged, foreign or
// unreadable. identity as in IndexOptions. For an index that is not open.
func VerifyIndex(fsys disk.FS, dir string, identity uint64) (files int, err error) {
	entries, err := fsys.ReadDir(indexDirLabel, dir)
	if err != nil {
		return 0, fmt.Errorf("index: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		number, ok := parseIndexRunName(entry.Name())
		if !ok {
			continue
		}
		files++
		name := path.Join(dir, entry.Name())
		r, err := openIndexRun(fsys, name, number, identity)
		if err == nil {
			err = r.verify(fsys)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return files, errors.Join(errs...)
}
