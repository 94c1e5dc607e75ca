package raftgroup

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

// IdentityFile is the file, in a replica's data directory, that says whose it is.
const IdentityFile = "replica.json"

const labelIdentity disk.Label = "replica.identity"

const (
	identityVersion  = 1
	maxIdentity      = 64 << 10
	incarnationBytes = 5
)

// Identity says whose a data directory is. The incarnation is made with the
// directory and is part of the replica's ServerID: a node whose directory was
// lost comes back as another server, and can't vote as its old self.
type Identity struct {
	Version     int    `json:"version"`
	Cluster     string `json:"cluster"`
	Group       string `json:"group"`
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
	// Recovered: the group was given new members by hand, from this replica on.
	Recovered *Recovery `json:"recovered,omitempty"`
}

// ServerID is the replica's id in its raft group.
func (i Identity) ServerID() raft.ServerID {
	return raft.ServerID(i.Node + "-" + i.Incarnation)
}

// ErrForeign is returned for a data directory that belongs to another replica.
var ErrForeign = errors.New("data directory of another replica")

// ReadIdentity reads the identity in dir; fs.ErrNotExist if there is none.
func ReadIdentity(d disk.FS, dir string) (Identity, error) {
	name := path.Join(dir, IdentityFile)
	f, err := d.OpenFile(labelIdentity, name, os.O_RDONLY)
	if err != nil {
		return Identity{}, err
	}
	buf := make([]byte, maxIdentity)
	n, err := f.ReadAt(buf, 0)
	if err == io.EOF {
		err = nil
	} else if err == nil {
		err = fmt.Errorf("%s: too large", name)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return Identity{}, err
	}
	var id Identity
	if err := json.Unmarshal(buf[:n], &id); err != nil {
		return Identity{}, fmt.Errorf("%s: %w: restore the file, or remove the whole data directory and let the replica join again", name, err)
	}
	switch {
	case id.Version != identityVersion:
		return Identity{}, fmt.Errorf("%s: version %d, this release knows %d", name, id.Version, identityVersion)
	case id.Incarnation == "":
		return Identity{}, fmt.Errorf("%s: it names no incarnation", name)
	}
	return id, nil
}

// loadIdentity is ReadIdentity of a directory that must belong to want, else
// ErrForeign.
func loadIdentity(d disk.FS, dir string, want Identity) (Identity, error) {
	got, err := ReadIdentity(d, dir)
	if err != nil {
		return got, err
	}
	if got.Cluster != want.Cluster || got.Group != want.Group || got.Node != want.Node {
		return got, fmt.Errorf("%s: %w: it says cluster %q, group %q, node %q; the configuration says cluster %q, group %q, node %q",
			path.Join(dir, IdentityFile), ErrForeign, got.Cluster, got.Group, got.Node, want.Cluster, want.Group, want.Node)
	}
	return got, nil
}

// makeDir makes a directory, if it is not there, and its name durable: also if
// it is there, as a process that was killed may have made it and not got so far.
func makeDir(d disk.FS, dir string) error {
	if err := d.MkdirAll(labelIdentity, dir); err != nil {
		return err
	}
	for ; ; dir = path.Dir(dir) {
		err := d.SyncDir(labelIdentity, dir)
		if errors.Is(err, fs.ErrPermission) {
			return nil // not made by us
		}
		if err != nil || dir == path.Dir(dir) {
			return err
		}
	}
}

// makeIdentity gives dir an identity, durably. It is the last file made of a new
// data directory: one without it was never in use.
func makeIdentity(d disk.FS, dir string, id Identity) (Identity, error) {
	var random [incarnationBytes]byte
	if _, err := rand.Read(random[:]); err != nil {
		return id, err
	}
	id.Version = identityVersion
	id.Incarnation = hex.EncodeToString(random[:])
	return id, writeIdentity(d, dir, id)
}

// writeIdentity replaces the identity in dir, durably.
func writeIdentity(d disk.FS, dir string, id Identity) error {
	body, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	name := path.Join(dir, IdentityFile)
	f, err := d.OpenFile(labelIdentity, name+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(append(body, '\n'), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := d.Rename(labelIdentity, name+".tmp", name); err != nil {
		return err
	}
	return d.SyncDir(labelIdentity, dir)
}

// isNew says whether an error of loadIdentity means a new data directory.
func isNew(err error) bool { return errors.Is(err, fs.ErrNotExist) }
