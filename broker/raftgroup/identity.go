package raftgroup

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/storage/disk"
)

const (
	identityFile                = "replica.json"
	labelIdentity    disk.Label = "replica.identity"
	identityVersion             = 1
	maxIdentity                 = 4096
	incarnationBytes            = 5
)

// identity says whose a data directory is. The incarnation is made with the
// directory and is part of the replica's ServerID: a node whose directory was
// lost comes back as another server, and can't vote as its old self.
type identity struct {
	Version     int    `json:"version"`
	Cluster     string `json:"cluster"`
	Group       string `json:"group"`
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
}

func (i identity) serverID() raft.ServerID {
	return raft.ServerID(i.Node + "-" + i.Incarnation)
}

// ErrForeign is returned for a data directory that belongs to another replica.
var ErrForeign = errors.New("data directory of another replica")

// loadIdentity reads the identity in dir. It returns fs.ErrNotExist for a
// directory that has none, and ErrForeign for one that is not for want.
func loadIdentity(d disk.FS, dir string, want identity) (identity, error) {
	name := path.Join(dir, identityFile)
	f, err := d.OpenFile(labelIdentity, name, os.O_RDONLY)
	if err != nil {
		return identity{}, err
	}
	buf := make([]byte, maxIdentity)
	n, err := f.ReadAt(buf, 0)
	if n == 0 || n == maxIdentity {
		err = errors.Join(fmt.Errorf("%s: %d bytes are no identity", name, n), err)
	} else {
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return identity{}, err
	}
	var got identity
	if err := json.Unmarshal(buf[:n], &got); err != nil {
		return identity{}, fmt.Errorf("%s: %w: restore the file, or remove the whole data directory and let the replica join again", name, err)
	}
	switch {
	case got.Version != identityVersion:
		return identity{}, fmt.Errorf("%s: version %d, this release knows %d", name, got.Version, identityVersion)
	case got.Cluster != want.Cluster || got.Group != want.Group || got.Node != want.Node:
		return identity{}, fmt.Errorf("%s: %w: it says cluster %q, group %q, node %q; the configuration says cluster %q, group %q, node %q",
			name, ErrForeign, got.Cluster, got.Group, got.Node, want.Cluster, want.Group, want.Node)
	case got.Incarnation == "":
		return identity{}, fmt.Errorf("%s: it names no incarnation", name)
	}
	return got, nil
}

// makeIdentity gives dir an identity, durably. It is the last file made of a new
// data directory: one without it was never in use.
func makeIdentity(d disk.FS, dir string, id identity) (identity, error) {
	var random [incarnationBytes]byte
	if _, err := rand.Read(random[:]); err != nil {
		return id, err
	}
	id.Version = identityVersion
	id.Incarnation = hex.EncodeToString(random[:])
	body, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return id, err
	}
	name := path.Join(dir, identityFile)
	f, err := d.OpenFile(labelIdentity, name+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return id, err
	}
	_, err = f.WriteAt(append(body, '\n'), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return id, err
	}
	if err := d.Rename(labelIdentity, name+".tmp", name); err != nil {
		return id, err
	}
	return id, d.SyncDir(labelIdentity, dir)
}

// isNew says whether an error of loadIdentity means a new data directory.
func isNew(err error) bool { return errors.Is(err, fs.ErrNotExist) }
