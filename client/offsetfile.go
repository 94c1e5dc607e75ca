package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/raftmq/raftmq/remoting"
)

// fileOffsets are the offsets of one client of a broadcasting group, in a file that it alone has. What is in the file is what Java's client
// writes: {"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:5}}.
//
// A new file takes the place of the old one in two steps, so that at every moment one of them is whole:
//
//	offsets.json.tmp   is written and synced
//	offsets.json       becomes offsets.json.bak
//	offsets.json.tmp   becomes offsets.json
type fileOffsets struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	offsets map[MessageQueue]int64
	dirty   bool // there is something that the file does not have
}

// offsetFile returns where a client of a group keeps its offsets by default.
func offsetFile(clientID, group string) (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	if clientID != filepath.Base(clientID) || !filepath.IsLocal(clientID) {
		return "", fmt.Errorf("the client id %q is no name for a directory", clientID)
	}
	return filepath.Join(home, ".rocketmq_offsets", clientID, group, "offsets.json"), nil
}

// load reads the file, or its predecessor if it is damaged or missing, and writes it, to find out now whether it can be. If both are damaged
// it is an error: to begin elsewhere would skip messages, or repeat all.
func (o *fileOffsets) load() error {
	if err := os.MkdirAll(filepath.Dir(o.path), 0o755); err != nil {
		return fmt.Errorf("%w: %w", ErrOffsetFile, err)
	}
	offsets, err := readOffsets(o.path)
	if err == nil {
		return o.begin(offsets)
	}
	missing := errors.Is(err, fs.ErrNotExist)
	if !missing && !errors.Is(err, errDamaged) {
		return fmt.Errorf("%w: %w", ErrOffsetFile, err)
	}
	offsets, bakErr := readOffsets(o.path + ".bak")
	switch {
	case missing && errors.Is(bakErr, fs.ErrNotExist):
		return o.begin(nil) // the client is new
	case bakErr != nil:
		return fmt.Errorf("%w: %w; the one before it: %w; mend one of them, or remove both to begin anew", ErrOffsetFile, err, bakErr)
	}
	o.log.Warn("offset file: the one before it is taken, some messages may come again", "error", err)
	if !missing {
		// It must not become the backup in place of the one that was good.
		if err := os.Rename(o.path, o.path+".damaged"); err != nil {
			return fmt.Errorf("%w: %w", ErrOffsetFile, err)
		}
	}
	return o.begin(offsets)
}

func (o *fileOffsets) begin(offsets remoting.QueueOffsets) error {
	o.mu.Lock()
	o.offsets, o.dirty = map[MessageQueue]int64{}, true
	for _, q := range offsets {
		o.offsets[q.MessageQueue] = q.Offset
	}
	o.mu.Unlock()
	return o.save()
}

// errDamaged: a file that is not one of offsets.
var errDamaged = errors.New("damaged")

// maxOffsetFile is the size of a file with far more queues than a client has.
const maxOffsetFile = 64 << 20

func readOffsets(path string) (remoting.QueueOffsets, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxOffsetFile {
		return nil, fmt.Errorf("%s is %w: it has %d bytes", path, errDamaged, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var offsets remoting.QueueOffsets
	if err := offsets.DecodeBody(b); err != nil {
		return nil, fmt.Errorf("%s is %w: %w", path, errDamaged, err)
	}
	for _, q := range offsets {
		if q.Offset < 0 || q.Topic == "" {
			return nil, fmt.Errorf("%s is %w: queue %+v has offset %d", path, errDamaged, q.MessageQueue, q.Offset)
		}
	}
	return offsets, nil
}

func (o *fileOffsets) committed(_ context.Context, mq MessageQueue) (int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	offset, ok := o.offsets[mq]
	if !ok {
		return 0, fmt.Errorf("%w: topic %s, broker %s, queue %d in %s", ErrNoOffset, mq.Topic, mq.BrokerName, mq.QueueID, o.path)
	}
	return offset, nil
}

// commit is for save to write.
func (o *fileOffsets) commit(_ context.Context, mq MessageQueue, offset int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if old, ok := o.offsets[mq]; !ok || old != offset {
		o.offsets[mq] = offset
		o.dirty = true
	}
	return nil
}

// save writes the file if there is something new.
func (o *fileOffsets) save() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.dirty {
		return nil
	}
	var offsets remoting.QueueOffsets
	for mq, offset := range o.offsets {
		offsets = append(offsets, remoting.QueueOffset{MessageQueue: mq, Offset: offset})
	}
	slices.SortFunc(offsets, func(a, b remoting.QueueOffset) int { return compareQueues(a.MessageQueue, b.MessageQueue) })
	if err := o.replace(offsets.AppendBody(nil)); err != nil {
		return fmt.Errorf("%w: %w", ErrOffsetFile, err)
	}
	o.dirty = false
	return nil
}

// replace puts a new file in the place of the old one.
func (o *fileOffsets) replace(b []byte) error {
	tmp := o.path + ".tmp"
	if err := writeSynced(tmp, b); err != nil {
		return err
	}
	if err := os.Rename(o.path, o.path+".bak"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(tmp, o.path)
}

func writeSynced(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
