package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
)

const (
	rejoinRetry = 500 * time.Millisecond
	// rejoinTimeout is how long the leader may take to have the entry applied.
	rejoinTimeout = 10 * time.Second
	// gatherAfter is how long those who are not suspect have to elect a leader.
	gatherAfter = 3 * time.Second
)

const suspectReason = "suspect: it lost power while entries were not synced"

// ErrNotSuspect is returned by Trust for a replica that takes part in elections
// anyway.
var ErrNotSuspect = errors.New("this replica is not suspect")

// logEnd is how far a log reaches. One that reaches further has all that was
// committed of the other.
type logEnd struct {
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
}

func (e logEnd) reaches(other logEnd) bool {
	if e.Term != other.Term {
		return e.Term > other.Term
	}
	return e.Index >= other.Index
}

// suspicion is what a replica knows of entries that it acknowledged and may have
// lost: in AsyncFlush its machine went down before they were synced.
//
// An entry that a majority has acknowledged, this replica among them, may be on
// one disk less than the leader counts. As long as this replica does not vote, any
// election needs somebody of that majority who has the entry; so nothing is lost
// unless a majority loses power. That ends when this replica holds the entry
// again, and all others like it. Which these are nobody knows: the commit index
// does not tell, as a leader may yet count what was acknowledged before the loss.
// (What a leader has counted it never takes back.) But all of them are before
// whatever a leader appends after the loss. Hence:
//
//	R1  A suspect neither votes nor stands. It takes entries.
//	R2  It asks the leader to append an entry. Once that is applied here, it has
//	    all that it ever acknowledged. It syncs its log, forgets the mark, and is
//	    as the others.
//	R3  Where no leader can be elected without it, it asks every voter how far its
//	    log reaches. When each has answered, it votes for, and stands with, a log
//	    that reaches as far as the furthest of them: what none of these holds, nobody
//	    does. If the suspects are a majority, messages may be lost, which it says.
//	R4  It does so at once for an operator who says so, see Trust.
//	R5  Whatever it was told counts for this run only: after another crash it begins
//	    anew. The mark stays until R2.
type suspicion struct {
	mu   sync.Mutex
	is   bool
	told bool   // by an operator that it may vote
	loss string // why messages may be lost for good, if so
}

func (s *suspicion) get() (is bool, loss string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.is, s.loss
}

// lost notes why messages may be lost, and says whether that is news.
func (s *suspicion) lost(why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := s.loss != why
	s.loss = why
	return news
}

// suspect bars the replica from elections, if it is suspect (R1).
func (g *Group) suspect() {
	if g.log.Suspect() && !g.cfg.guard.noSuspects {
		g.suspicion.is = true
		g.standing.restrain(suspectReason, noVote)
	}
}

// rejoin makes a suspect replica one like the others.
func (g *Group) rejoin() {
	timer := time.NewTicker(rejoinRetry)
	defer timer.Stop()
	said := ""
	for {
		err := g.tryRejoin()
		if err == nil || g.ctx.Err() != nil || g.Err() != nil {
			return
		}
		if why := err.Error(); why != said {
			g.logger.Warn("this replica lost power with entries unsynced, and takes no part in elections yet", "because", err)
			said = why
		}
		select {
		case <-timer.C:
		case <-g.ctx.Done():
			return
		}
	}
}

func (g *Group) tryRejoin() error {
	index, err := g.askToRejoin()
	if err != nil {
		if g.leaderless() >= gatherAfter {
			err = g.gather()
		}
		return err
	}
	if err := g.progress.wait(g.ctx, index); err != nil {
		return err
	}
	if err := g.log.ClearSuspect(); err != nil {
		return err
	}
	g.suspicion.mu.Lock()
	defer g.suspicion.mu.Unlock()
	g.suspicion.is = false
	g.standing.setFloor(nil)
	g.standing.lift(suspectReason)
	g.logger.Info("this replica has all it acknowledged again, and takes part in elections", "applied", index)
	return nil
}

// askToRejoin has the leader append an entry, and returns an index not before it
// that is committed (R2).
func (g *Group) askToRejoin() (uint64, error) {
	address, leader := g.raft().LeaderWithID()
	if leader == g.id && len(g.voters()) == 1 {
		g.mayBeLost("the group's only voter had lost power: messages acknowledged in the moments before may be lost")
	}
	_, loss := g.suspicion.get()
	switch leader {
	case "":
		return 0, errors.New("no leader is known")
	case g.id:
		return g.noteRejoin(g.ctx, string(g.id), loss)
	}
	id, addr, err := splitAddress(address)
	if err != nil {
		return 0, err
	}
	var answer rejoinAnswer
	err = g.question(g.ctx, addr, hello{Kind: streamRejoin, Group: g.cfg.Name, From: string(g.id), To: string(id), Loss: loss}, rejoinTimeout, &answer)
	switch {
	case err != nil:
		return 0, err
	case answer.Error != "":
		return 0, errors.New(answer.Error)
	}
	return answer.Index, nil
}

// rejoinAnswer is the leader's.
type rejoinAnswer struct {
	Index uint64 `json:"index"`
	Error string `json:"error,omitempty"`
}

// answerRejoin answers a suspect.
func (g *Group) answerRejoin(h hello, c net.Conn) {
	var answer rejoinAnswer
	var err error
	if answer.Index, err = g.noteRejoin(g.ctx, h.From, h.Loss); err != nil {
		answer.Error = err.Error()
	}
	g.answer(c, answer)
}

// noteRejoin appends the entry. What is applied here when it is includes it.
func (g *Group) noteRejoin(ctx context.Context, replica, loss string) (uint64, error) {
	what := "lost power with entries unsynced, and has what it acknowledged again"
	if loss != "" {
		what += "; " + loss
	}
	if _, err := g.apply(ctx, fsm.NoteIncident(replica, what)); err != nil {
		return 0, err
	}
	index, _ := g.progress.get()
	return index, nil
}

// gather asks every voter how far its log reaches (R3).
func (g *Group) gather() error {
	answers, err := g.askVoters()
	if err != nil {
		return err
	}
	var floor logEnd
	suspects := 0
	for _, s := range answers {
		if s.LogEnd.reaches(floor) {
			floor = s.LogEnd
		}
		if s.Suspect {
			suspects++
		}
	}
	if suspects > len(answers)/2 {
		g.mayBeLost(fmt.Sprintf("%d of %d voters had lost power: messages acknowledged in the moments before may be lost", suspects, len(answers)))
	}
	g.suspicion.mu.Lock()
	defer g.suspicion.mu.Unlock()
	if !g.suspicion.told {
		g.standing.setFloor(&floor)
		g.standing.lift(suspectReason)
	}
	return fmt.Errorf("all %d voters are there; whose log reaches entry %d of term %d can be elected, and this replica waits for a leader", len(answers), floor.Index, floor.Term)
}

func (g *Group) mayBeLost(why string) {
	if g.suspicion.lost(why) {
		g.logger.Error("acknowledged messages may be lost", "because", why,
			"todo", "compare with what producers have sent; flushDiskType: SYNC_FLUSH would have kept them")
	}
}

// askVoters asks every voter for its state: each that any of them knows of.
func (g *Group) askVoters() ([]replicaState, error) {
	ctx, cancel := context.WithTimeout(g.ctx, askTimeout)
	defer cancel()
	self := g.describe()
	voters := self.Voters
	if len(voters) == 0 {
		// It has lost those, too. Whom it began with may know.
		for _, p := range g.peers() {
			if s, err := g.ask(ctx, p.Address); err == nil {
				voters = append(voters, s.Voters...)
			}
		}
	}
	var answers []replicaState
	for i := 0; i < len(voters); i++ { // it grows
		id, addr, err := splitAddress(raft.ServerAddress(voters[i]))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(answers, func(s replicaState) bool { return s.ServerID == string(id) }) {
			continue
		}
		s := self
		if id != g.id {
			if s, err = g.ask(ctx, addr); err != nil {
				return nil, fmt.Errorf("not every voter answers: %w", err)
			}
		}
		if s.ServerID != string(id) {
			return nil, fmt.Errorf("at %s is %s, not the voter %s: its data directory is another one", addr, s.ServerID, id)
		}
		answers = append(answers, s)
		voters = append(voters, s.Voters...)
	}
	if len(answers) == 0 {
		return nil, errors.New("nobody that answers knows the members of the group")
	}
	return answers, nil
}

// Trust lets a suspect replica take part in elections as it is (R4). Its operator
// knows that what it has lost is not needed, or that nobody else has it.
func (g *Group) Trust() error {
	if is, _ := g.suspicion.get(); !is {
		return ErrNotSuspect
	}
	g.mayBeLost("an operator let it vote before it had what it acknowledged again")
	g.suspicion.mu.Lock()
	defer g.suspicion.mu.Unlock()
	g.suspicion.told = true
	g.standing.setFloor(nil)
	g.standing.lift(suspectReason)
	return nil
}
