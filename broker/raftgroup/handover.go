package raftgroup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	handoverEvery = time.Second
	// leaveEvery is how long a leader that is to leave waits after an attempt.
	leaveEvery = time.Second
	// fitBehind is how many entries a replica may have to apply yet to be fit.
	fitBehind = 128
	// inspectTimeout bounds the question how the others are.
	inspectTimeout = time.Second
	// maxBalanceAfter bounds what a preferred leader has to wait that does not keep
	// leadership.
	maxBalanceAfter = 10 * time.Minute
)

// errNobodyFit is wrapped by what says why nobody can lead instead.
var errNobodyFit = errors.New("no other replica is fit to lead")

// handover decides when a leader gives leadership away, and to whom. Nothing else
// does.
//
//	H1  A leader leaves when something restrains it, see standing: its disk, what it
//	    lacks, that its node is closing. Else it leaves for the preferred leader, the
//	    first of Config.Preference, only: when that has been fit, and this one has led,
//	    for BalanceAfter.
//	H2  Leadership goes to a voter that answers, that nothing restrains, that lacks
//	    nothing, has room, and has applied all but the last fitBehind entries; of
//	    several to the first by Preference. If nobody is fit the leader stays.
//	H3  What an operator has transferred stays until the next election: whoever was told
//	    to transfer says which term that has begun, and its leader asks.
//	H4  One that leaves tries once in leaveEvery. Each time the preferred leader is back
//	    out soon after it was given leadership, it waits twice as long for the next.
type handover struct {
	poke chan struct{}
	turn chan struct{} // room for the one who hands over

	mu       sync.Mutex
	count    int64  // leadership was given away
	last     string // how, the last time
	operator uint64 // the term that an operator's transfer from here has begun
}

func (h *handover) init() {
	h.poke, h.turn = make(chan struct{}, 1), make(chan struct{}, 1)
}

// wake has the leader look at once whether it is to leave.
func (h *handover) wake() {
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

func (h *handover) given(how string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	h.last = how
}

func (h *handover) status() (count int64, last string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count, h.last
}

// operatorTerm is the term that an operator's transfer from this replica has begun.
func (h *handover) operatorTerm() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.operator
}

// balance is what a leader keeps in mind between two looks.
type balance struct {
	term  uint64
	since time.Time // of the term, as far as was looked
	held  bool      // an operator wants it so (H3)
	tried time.Time // to leave
	said  string    // why nobody is fit
	fit   time.Time // since when the preferred one is; zero: it is not
	wait  time.Duration
	gave  time.Time // leadership to the preferred one
}

// handOvers looks, while this replica leads, whether another one should.
func (g *Group) handOvers() {
	tick := time.NewTicker(handoverEvery)
	defer tick.Stop()
	b := balance{wait: g.cfg.BalanceAfter}
	for {
		select {
		case <-g.handover.poke:
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
		if l := g.Leadership(); l.Self {
			g.reconsider(&b, l.Term)
		}
	}
}

func (g *Group) reconsider(b *balance, term uint64) {
	now := time.Now()
	if b.term != term {
		b.begin(term, now, g.cfg.BalanceAfter)
	}
	if why := g.standing.restrained(); why != nil {
		if now.Sub(b.tried) < leaveEvery {
			return
		}
		b.tried = now
		if err := g.leave(g.ctx, why); err != nil && err.Error() != b.said && g.ctx.Err() == nil {
			g.logger.Warn("this replica should not lead and goes on", "because", why, "error", err)
			b.said = err.Error()
		}
		return
	}
	b.said = ""
	if len(g.cfg.Preference) == 0 || g.cfg.Preference[0] == g.cfg.Node || g.cfg.BalanceAfter < 0 || b.held {
		return
	}
	all, err := g.inspect(g.ctx)
	if err != nil {
		return // raft has stopped
	}
	preferred := slices.IndexFunc(all, func(c candidate) bool { return isNode(string(c.server.ID), g.cfg.Preference[0]) })
	b.held = slices.ContainsFunc(all, func(c candidate) bool { return c.state.OperatorTerm == term })
	switch {
	case b.held:
		g.logger.Info("an operator has made this replica the leader: it stays that until the next election", "preferred", g.cfg.Preference[0])
	case preferred < 0 || all[preferred].unfit != nil:
		b.fit = time.Time{}
	case b.fit.IsZero():
		b.fit = now
	case now.Sub(b.fit) >= b.wait && now.Sub(b.since) >= b.wait:
		b.fit = time.Time{} // it has to prove itself anew, should this fail
		if err := g.handOver(g.ctx, all[preferred].server, "it is the preferred leader"); err != nil {
			g.logger.Warn("leadership was not given to the preferred leader", "error", err)
			return
		}
		b.gave = now
	}
}

// begin begins a term. (H4)
func (b *balance) begin(term uint64, now time.Time, wait time.Duration) {
	switch {
	case b.gave.IsZero():
	case now.Sub(b.gave) < 4*b.wait:
		b.wait = min(2*b.wait, max(wait, maxBalanceAfter))
	default:
		b.wait = wait
	}
	*b = balance{term: term, since: now, wait: b.wait}
}

// candidate is another voter.
type candidate struct {
	server raft.Server
	state  replicaState
	unfit  error // why it is not to lead; nil if it may
	hope   bool  // it is only behind
}

// inspect asks the other voters how they are. Those that may lead come first, the
// best of them at the head.
func (g *Group) inspect(ctx context.Context) ([]candidate, error) {
	servers, err := g.servers()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	var all []candidate
	for _, s := range servers {
		if s.ID != g.id && s.Suffrage == raft.Voter {
			all = append(all, candidate{server: s})
		}
	}
	var asked sync.WaitGroup
	for i := range all {
		asked.Go(func() { all[i].ask(ctx, g) })
	}
	asked.Wait()
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(one(a.unfit != nil), one(b.unfit != nil)),
			cmp.Compare(g.rank(a.server.ID), g.rank(b.server.ID)),
			cmp.Compare(b.state.Applied, a.state.Applied),
		)
	})
	return all, nil
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// rank is how far behind in Preference a replica is.
func (g *Group) rank(id raft.ServerID) int {
	for i, node := range g.cfg.Preference {
		if isNode(string(id), node) {
			return i
		}
	}
	return len(g.cfg.Preference)
}

// ask asks one and judges it. (H2)
func (c *candidate) ask(ctx context.Context, g *Group) {
	_, addr, err := splitAddress(c.server.Address)
	if err == nil {
		c.state, err = g.ask(ctx, addr)
	}
	s, last := &c.state, g.raft().LastIndex()
	switch {
	case err != nil:
		c.unfit = fmt.Errorf("%s does not answer: %w", c.server.ID, err)
	case s.ServerID != string(c.server.ID):
		c.unfit = fmt.Errorf("at %s is %s, not %s", addr, s.ServerID, c.server.ID)
	case s.Restrained != "":
		c.unfit = fmt.Errorf("%s: %s", s.ServerID, s.Restrained)
	case !s.Room:
		c.unfit = fmt.Errorf("%s has no room on its disk", s.ServerID)
	case !s.Complete:
		c.unfit = fmt.Errorf("%s is fetching what it lacks", s.ServerID)
	case s.Applied+fitBehind < last:
		c.unfit, c.hope = fmt.Errorf("%s has applied %d of %d entries", s.ServerID, s.Applied, last), true
	}
}

// leave gives leadership to who is fittest, for a reason.
func (g *Group) leave(ctx context.Context, why error) error {
	_, err := g.leaveOnce(ctx, why)
	return err
}

// leaveOnce also says whether somebody is only behind, so that it is worth trying
// again soon.
func (g *Group) leaveOnce(ctx context.Context, why error) (hope bool, err error) {
	all, err := g.inspect(ctx)
	if err != nil {
		return false, err
	}
	if len(all) > 0 && all[0].unfit == nil {
		return true, g.handOver(ctx, all[0].server, why.Error())
	}
	errs := []error{errNobodyFit}
	for _, c := range all {
		errs = append(errs, c.unfit)
		hope = hope || c.hope
	}
	return hope, errors.Join(errs...)
}

var errClosingNode = errors.New("its node is closing")

// closingNode restrains a replica whose node is to close.
const closingNode = "closing"

// Leave gives leadership away for good, if this replica has it, because its node
// is going to close: it stands for election last from now on. It returns when
// another one was given leadership, or nobody can be. The replica goes on until
// Close.
func (g *Group) Leave(ctx context.Context) error {
	g.standing.restrain(closingNode, standLast)
	return g.makeWay(ctx, errClosingNode)
}

// makeWay gives leadership away, if this replica has it, as soon as somebody who is
// only behind has come up.
func (g *Group) makeWay(ctx context.Context, why error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if !g.Leadership().Self {
			return nil
		}
		hope, err := g.leaveOnce(ctx, why)
		if err == nil || !hope || errors.Is(err, ErrNotLeader) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-g.ctx.Done():
			return context.Cause(g.ctx)
		}
	}
}

// TransferLeadership gives leadership to another replica, because an operator
// wants it: to the one named by its node or ServerID, or to the one that is
// fittest. The group stays with it until its next election, whichever leader is
// preferred.
func (g *Group) TransferLeadership(ctx context.Context, id string) error {
	l := g.Leadership()
	if !l.Self {
		return ErrNotLeader
	}
	ctx, end := g.until(ctx)
	defer end()
	var err error
	if id == "" {
		err = g.leave(ctx, errors.New("an operator wants it"))
	} else {
		err = g.transferTo(ctx, id)
	}
	if err == nil {
		g.handover.mu.Lock()
		g.handover.operator = l.Term + 1
		g.handover.mu.Unlock()
	}
	return err
}

func (g *Group) transferTo(ctx context.Context, id string) error {
	server, err := g.member(id)
	if err != nil {
		return err
	}
	switch {
	case server.ID == g.id:
		return nil
	case server.Suffrage != raft.Voter:
		return fmt.Errorf("%w: %s is no voter", errNobodyFit, server.ID)
	}
	c := candidate{server: server}
	if c.ask(ctx, g); c.unfit != nil {
		return fmt.Errorf("%w: %w", errNobodyFit, c.unfit)
	}
	return g.handOver(ctx, server, "an operator wants it")
}
