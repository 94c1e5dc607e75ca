package raftgroup

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// bar is what a replica may not do in elections.
type bar int

const (
	// standLast: it stands only when nobody has led for standLastAfter.
	standLast bar = iota + 1
	// noStand: it votes, but does not stand.
	noStand
	// noVote: it neither votes nor stands.
	noVote
)

// standLastAfter is how long the better fit have to elect one of them.
const standLastAfter = 3 * time.Second

var errBarred = errors.New("this replica does not take part in the election")

// standing says what keeps a replica from voting, or from standing for election,
// each by a reason. A leader that has one hands over, see handover. hashicorp/raft knows nothing of it: the transport asks, and
// neither sends nor answers what is not to be. In a group of one there is nobody
// to ask, and no bar holds.
type standing struct {
	mu   sync.Mutex
	bars map[string]bar
	// floor is how far a log has to reach to get this replica's vote, or to stand
	// with; nil: as far as raft says.
	floor *logEnd
	// alone is how long this replica has heard of no leader.
	alone func() time.Duration
	// changed is told that there is a reason more.
	changed func()
	// votes says whether the replica has a vote: without one it does not stand,
	// whoever tells it to.
	votes func() bool
}

// restrain bars a replica for a reason, until lift.
func (s *standing) restrain(reason string, b bar) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bars == nil {
		s.bars = map[string]bar{}
	}
	s.bars[reason] = b
	if s.changed != nil {
		s.changed()
	}
}

// lift takes one reason away.
func (s *standing) lift(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bars, reason)
}

// setFloor sets how far a log has to reach.
func (s *standing) setFloor(floor *logEnd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.floor = floor
}

// reaches is nil, or says that a log does not reach far enough.
func (s *standing) reaches(term, index uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end := (logEnd{term, index}); s.floor != nil && !end.reaches(*s.floor) {
		return fmt.Errorf("%w: a log that reaches entry %d of term %d is needed", errBarred, s.floor.Index, s.floor.Term)
	}
	return nil
}

// set restrains a replica for a reason, or lifts that.
func (s *standing) set(reason string, b bar, barred bool) {
	s.mu.Lock()
	_, is := s.bars[reason]
	s.mu.Unlock()
	switch {
	case barred && !is:
		s.restrain(reason, b)
	case !barred && is:
		s.lift(reason)
	}
}

// mayVote is nil, or says what keeps the replica from voting.
func (s *standing) mayVote() error {
	return s.barred(func(b bar) bool { return b == noVote })
}

// mayStand is nil, or says what keeps it from standing for election.
func (s *standing) mayStand() error {
	if s.votes != nil && !s.votes() {
		return fmt.Errorf("%w: it has no vote", errBarred)
	}
	last := s.alone == nil || s.alone() < standLastAfter
	return s.barred(func(b bar) bool { return b >= noStand || b == standLast && last })
}

// restrained is nil, or names every reason there is.
func (s *standing) restrained() error {
	return s.barred(func(bar) bool { return true })
}

func (s *standing) barred(counts func(bar) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var why []string
	for reason, b := range s.bars {
		if counts(b) {
			why = append(why, reason)
		}
	}
	if s.floor != nil && counts(0) {
		why = append(why, suspectReason)
	}
	if why == nil {
		return nil
	}
	slices.Sort(why)
	return fmt.Errorf("%w: it is %s", errBarred, strings.Join(why, ", "))
}

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.standing.mayStand() != nil || t.standing.reaches(args.LastLogTerm, args.LastLogIndex) != nil {
		resp.Term = args.Term // as one who says no: an error raft would log as one
		return nil
	}
	return t.NetworkTransport.RequestVote(id, target, args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.standing.mayStand() != nil || t.standing.reaches(args.LastLogTerm, args.LastLogIndex) != nil {
		resp.Term = args.Term
		return nil
	}
	return t.NetworkTransport.RequestPreVote(id, target, args, resp)
}

// refuseElection answers a request that belongs to an election in which this
// replica may not take part, and says whether it did.
func (t *transport) refuseElection(rpc raft.RPC) bool {
	switch req := rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		if t.standing.mayVote() != nil || t.standing.reaches(req.LastLogTerm, req.LastLogIndex) != nil {
			_, term := t.gate.now()
			rpc.Respond(&raft.RequestVoteResponse{Term: term}, nil)
			return true
		}
	case *raft.RequestPreVoteRequest:
		if t.standing.mayVote() != nil || t.standing.reaches(req.LastLogTerm, req.LastLogIndex) != nil {
			_, term := t.gate.now()
			rpc.Respond(&raft.RequestPreVoteResponse{Term: term}, nil)
			return true
		}
	case *raft.TimeoutNowRequest:
		if err := t.standing.mayStand(); err != nil {
			rpc.Respond(nil, err)
			return true
		}
	}
	return false
}
