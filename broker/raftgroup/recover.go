package raftgroup

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// recoveredTerms is how far a recovery raises the term: the old members, should
// they hold elections of their own, never get there. To it comes a random number
// below recoveredSpread: two survivors that were both recovered are two groups, and
// an entry of one must not look like one of the other.
const (
	recoveredTerms  = 1 << 20
	recoveredSpread = 1 << 16
)

// Recovery says that a group that had lost its majority was given new members by
// hand: the replica that has it in its identity, and perhaps others that are new.
//
// It is one write, of the identity, and so happened or did not. The replica gets a
// new incarnation by it: whoever knows it as a member of the old group can't reach
// it any more, whether that holds elections or sends entries, and so can take
// nothing back. The next start brings the log up to it, as often as it is needed:
// it appends an entry with the new members, in the new term. The first election
// commits that, and all that stands before it.
type Recovery struct {
	At      string   `json:"at"` // by the machine's clock
	Was     string   `json:"was"`
	MadeAs  string   `json:"madeAs"` // the ServerID that the store was made under
	Term    uint64   `json:"term"`
	GroupID string   `json:"groupId"` // the group is another one from then on: the old one may live on
	Members []Voter  `json:"members"`
	Dropped []string `json:"dropped"` // ServerIDs of the members before
}

// Voter is a voter by its ServerID, and where its peer port is.
type Voter struct {
	ServerID string `json:"serverId"`
	Address  string `json:"address"`
}

// StoreReplica is the ServerID that the directory's store was made under.
func (i Identity) StoreReplica() string {
	if i.Recovered != nil {
		return i.Recovered.MadeAs
	}
	return string(i.ServerID())
}

// RecoverConfig says what to recover.
type RecoverConfig struct {
	FS     disk.FS          // default: the machine's
	Dir    string           // the replica's data directory
	Stable raft.StableStore // as of Config
	Now    func() time.Time // default: time.Now
	// Address is where this node's peer port is. Default: as it was.
	Address string
	// Peers are further voters. They are new replicas, that are running with empty
	// directories: none of them was a member before.
	Peers []Voter
	// Again: also if it was recovered, and has got no member since then.
	Again bool
	// Dry: find out what would be done, and change nothing.
	Dry bool
}

// RecoveryPlan is what a recovery does, or has done.
type RecoveryPlan struct {
	Identity Identity // after it
	Before   []raft.Server
	Snapshot uint64 // index of the newest
	Last     uint64 // index of the log's last entry: all up to here is committed by it
	LastTerm uint64
}

var (
	// ErrNoRecovery is what the refusal of a recovery wraps.
	ErrNoRecovery = errors.New("the group can't be recovered from this replica")
	// ErrRecovered: it was recovered before, and there is nothing new to recover.
	ErrRecovered = fmt.Errorf("%w: it was recovered already", ErrNoRecovery)
)

// Recover makes the replica in a directory, which nobody has open, the only voter
// of its group, with others that are new if they are given. Messages that only the
// old members hold are lost. Those must never run again but with empty directories.
// The directory should have been verified.
func Recover(cfg RecoverConfig) (plan *RecoveryPlan, err error) {
	if cfg.FS == nil {
		cfg.FS = disk.OS()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if !cfg.Dry {
		lock, err := cfg.FS.Lock(labelIdentity, path.Join(cfg.Dir, "raft", "log", "lock"))
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, lock.Close()) }()
	}
	if plan, err = planRecovery(&cfg); err != nil || cfg.Dry {
		return plan, err
	}
	return plan, writeIdentity(cfg.FS, cfg.Dir, plan.Identity)
}

func planRecovery(cfg *RecoverConfig) (*RecoveryPlan, error) {
	id, err := ReadIdentity(cfg.FS, cfg.Dir)
	if err != nil {
		return nil, err
	}
	p := &RecoveryPlan{}
	term, err := readTerm(cfg)
	if err != nil {
		return nil, err
	}
	if err := p.readLog(cfg); err != nil {
		return nil, err
	}
	old := id.Recovered
	started := old != nil && old.Term <= p.LastTerm
	alone := len(p.Before) == 1 && p.Before[0].ID == id.ServerID()
	if old != nil && (!started || alone) && !cfg.Again {
		return nil, fmt.Errorf("%w: %s is %s since %s, and nothing was changed: start the node", ErrRecovered, old.Was, id.ServerID(), old.At)
	}
	if old != nil && !started {
		term = max(term, old.Term)
		for _, m := range old.Members {
			p.Before = append(p.Before, raft.Server{ID: raft.ServerID(m.ServerID), Address: peerAddress(raft.ServerID(m.ServerID), m.Address)})
		}
	}
	rec := &Recovery{
		At: cfg.Now().UTC().Format(time.RFC3339), Was: string(id.ServerID()), MadeAs: id.StoreReplica(),
		Term: max(term, p.LastTerm) + recoveredTerms,
	}
	address := cfg.Address
	for _, s := range p.Before {
		rec.Dropped = append(rec.Dropped, string(s.ID))
		if s.ID == id.ServerID() && address == "" {
			if _, address, err = splitAddress(s.Address); err != nil {
				return nil, err
			}
		}
	}
	if address == "" {
		return nil, fmt.Errorf("%w: it is not known where the peer port of %s is, as it was not a member: name its configuration", ErrNoRecovery, id.Node)
	}
	var random [incarnationBytes + 2]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	rec.Term += uint64(binary.BigEndian.Uint16(random[incarnationBytes:])) % recoveredSpread
	if rec.GroupID, err = newGroupID(); err != nil {
		return nil, err
	}
	p.Identity = id
	p.Identity.Incarnation, p.Identity.Recovered = hex.EncodeToString(random[:incarnationBytes]), rec
	rec.Members = append([]Voter{{string(p.Identity.ServerID()), address}}, cfg.Peers...)
	for i, m := range rec.Members {
		switch {
		case m.ServerID == "" || m.Address == "" || strings.Contains(m.ServerID, "@"):
			return nil, fmt.Errorf("%w: peer %q at %q is incomplete", ErrNoRecovery, m.ServerID, m.Address)
		case slices.Contains(rec.Dropped, m.ServerID) || m.ServerID == rec.Was:
			return nil, fmt.Errorf("%w: %s was a member: only new replicas may be, with empty directories and the server ids that they have then", ErrNoRecovery, m.ServerID)
		case slices.ContainsFunc(rec.Members[:i], func(o Voter) bool { return o.ServerID == m.ServerID || o.Address == m.Address }):
			return nil, fmt.Errorf("%w: peer %s at %s is named twice", ErrNoRecovery, m.ServerID, m.Address)
		}
	}
	return p, nil
}

func readTerm(cfg *RecoverConfig) (uint64, error) {
	if cfg.Stable == nil {
		return raftlog.ReadStable(path.Join(cfg.Dir, "raft", "stable.db"))
	}
	s, err := raftlog.NewStable(cfg.Stable, false)
	if err != nil {
		return 0, err
	}
	return s.CurrentTerm(), nil
}

// readLog finds the members, and where the log ends.
func (p *RecoveryPlan) readLog(cfg *RecoverConfig) error {
	snaps, err := raftlog.ReadSnapshots(cfg.FS, path.Join(cfg.Dir, "raft", "snapshots"))
	if err != nil {
		return err
	}
	metas, err := snaps.List()
	if err != nil {
		return err
	}
	if len(metas) > 0 {
		p.Snapshot, p.Last, p.LastTerm = metas[0].Index, metas[0].Index, metas[0].Term
		p.Before = metas[0].Configuration.Servers
	}
	dead := false // the next start drops it, see raftlog.Reconcile
	err = raftlog.Scan(cfg.FS, path.Join(cfg.Dir, "raft", "log"), func(l *raft.Log) error {
		dead = dead || len(metas) > 0 && l.Index == p.Snapshot && l.Term != metas[0].Term
		if dead || l.Index <= p.Snapshot {
			return nil
		}
		p.Last, p.LastTerm = l.Index, l.Term
		if l.Type == raft.LogConfiguration {
			p.Before = raft.DecodeConfiguration(l.Data).Servers
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(p.Before) == 0 {
		return fmt.Errorf("%w: its log does not say who the members are: it was never a member, or has lost that", ErrNoRecovery)
	}
	return nil
}

// finishRecovery brings term and log up to a recovery, unless they are.
func (g *Group) finishRecovery(r *Recovery) error {
	end := g.logEnd()
	if r == nil || end.Term >= r.Term {
		return nil
	}
	if g.stable.CurrentTerm() < r.Term {
		if err := g.stable.SetUint64([]byte(keyCurrentTerm), r.Term); err != nil {
			return err
		}
	}
	var conf raft.Configuration
	for _, m := range r.Members {
		id := raft.ServerID(m.ServerID)
		conf.Servers = append(conf.Servers, raft.Server{Suffrage: raft.Voter, ID: id, Address: peerAddress(id, m.Address)})
	}
	logs := []*raft.Log{
		{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)},
		{Type: raft.LogCommand, Data: fsm.Regroup(r.GroupID)},
		{Type: raft.LogCommand, Data: fsm.NoteIncident(string(g.id),
			fmt.Sprintf("was %s until raft recover, at %s, made it the first member instead of %s", r.Was, r.At, strings.Join(r.Dropped, ", ")))},
	}
	for _, id := range r.Dropped {
		logs = append(logs, &raft.Log{Type: raft.LogCommand, Data: fsm.DropMember(id)})
	}
	for i, l := range logs {
		l.Index, l.Term, l.AppendedAt = end.Index+1+uint64(i), r.Term, time.Now()
	}
	if err := g.log.StoreLogs(logs); err != nil {
		return err
	}
	g.logger.Warn("the group goes on from this replica, by raft recover", "term", r.Term, "members", conf.Servers, "not any more", r.Dropped)
	return g.log.Sync()
}
