package namesrv

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage/disk"
)

const (
	labelKV     disk.Label = "namesrv-kv"
	kvTemporary            = ".tmp"
	maxKVFile              = 8 * MaxKVBytes // JSON text may be longer than what it says
)

// kvStore is the KV configuration: keys and values by namespace. A Service's lock
// guards it. The file, written by keepKV only, is that of RocketMQ:
//
//	{"configTable":{"NAMESPACE":{"key":"value"}}}
type kvStore struct {
	fs      disk.FS
	path    string // "": no file
	spaces  map[string]map[string]string
	bytes   int                  // namespaces (once a key), keys and values
	waiting []remoting.Responder // of changes that are not in the file yet
	wake    chan struct{}        // has room for one
}

type kvFile struct {
	ConfigTable map[string]map[string]string `json:"configTable"`
}

// openKV reads the file, if there is one.
func openKV(files disk.FS, name string) (*kvStore, error) {
	kv := &kvStore{fs: files, path: name, spaces: map[string]map[string]string{}, wake: make(chan struct{}, 1)}
	if name == "" {
		return kv, nil
	}
	text, err := readFile(files, name)
	if errors.Is(err, fs.ErrNotExist) {
		return kv, makeDir(files, path.Dir(name))
	}
	if err != nil {
		return nil, fmt.Errorf("namesrv: read the KV configuration: %w", err)
	}
	var file kvFile
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("namesrv: %s is not a KV configuration, repair or remove it: %w", name, err)
	}
	for space, table := range file.ConfigTable {
		if len(table) == 0 {
			continue
		}
		kv.spaces[space] = table
		for key, value := range table {
			kv.bytes += len(space) + len(key) + len(value)
		}
	}
	return kv, nil
}

// makeDir makes a directory, and its parents, that survives a crash.
func makeDir(files disk.FS, dir string) error {
	_, err := files.Stat(labelKV, dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := path.Dir(dir)
	if err := makeDir(files, parent); err != nil {
		return err
	}
	if err := files.MkdirAll(labelKV, dir); err != nil {
		return err
	}
	return files.SyncDir(labelKV, parent)
}

func readFile(files disk.FS, name string) ([]byte, error) {
	f, err := files.OpenFile(labelKV, name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > maxKVFile {
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d", name, size, maxKVFile)
	}
	text := make([]byte, size)
	if _, err := f.ReadAt(text, 0); err != nil && size > 0 {
		return nil, err
	}
	return text, nil
}

// keepKV writes the file when the configuration has changed, and then answers
// those who changed it. It is a goroutine of its own because the disk may hang.
func (s *Service) keepKV() {
	for {
		select {
		case <-s.kv.wake:
			s.writeKV()
		case <-s.closed:
			s.writeKV()
			return
		}
	}
}

func (s *Service) writeKV() {
	s.mu.Lock()
	waiting := s.kv.waiting
	s.kv.waiting = nil
	if len(waiting) == 0 {
		s.mu.Unlock()
		return
	}
	text, err := json.MarshalIndent(kvFile{s.kv.spaces}, "", "  ")
	s.mu.Unlock()
	if err == nil {
		err = replaceFile(s.kv.fs, s.kv.path, text)
	}
	if err != nil {
		s.logger.Error("KV configuration not written", "file", s.kv.path, "error", err)
		err = fmt.Errorf("changed, but only until the name server restarts: %s was not written: %w", s.kv.path, err)
	}
	for _, r := range waiting {
		if err != nil {
			r.Error(err)
		} else {
			r.Respond(&remoting.Command{})
		}
	}
}

// replaceFile replaces a file by another content: after a crash it has the one
// or the other.
func replaceFile(files disk.FS, name string, text []byte) error {
	tmp := name + kvTemporary
	f, err := files.OpenFile(labelKV, tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := files.Rename(labelKV, tmp, name); err != nil {
		return err
	}
	return files.SyncDir(labelKV, path.Dir(name))
}
