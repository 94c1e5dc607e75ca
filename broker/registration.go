package broker

import (
	"context"
	"sync"
	"time"

	"github.com/raftmq/raftmq/broker/namesrv"
)

// registration keeps the name servers told of this replica: its role, its term
// and the group's topics, at once on every change.
type registration struct {
	b    *Broker
	poke chan struct{}

	mu        sync.Mutex
	registrar *namesrv.Registrar // nil after leave, and while this replica is no member or fenced
	left      bool
}

func newRegistration(b *Broker) (*registration, error) {
	r := &registration{b: b, poke: make(chan struct{}, 1)}
	return r, r.enter()
}

// enter begins to tell the name servers.
func (r *registration) enter() (err error) {
	b := r.b
	r.registrar, err = namesrv.NewRegistrar(namesrv.RegistrarConfig{
		NameServers: splitAddresses(b.cfg.NamesrvAddr), Heartbeat: time.Duration(b.cfg.NamesrvHeartbeat), Logger: b.logger.Named("registrar"),
	})
	if err != nil {
		return badKey("namesrvAddr", "%v", err)
	}
	return nil
}

// wake tells what has changed.
func (r *registration) wake() { poke(r.poke) }

func (r *registration) run() {
	for {
		r.update()
		select {
		case <-r.poke:
		case <-r.b.ctx.Done():
			return
		}
	}
}

func (r *registration) update() {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.b
	lead := b.group.Leadership()
	if r.left || b.group.State().Configuration().GroupID == "" {
		return // nobody knows yet what this is a replica of
	}
	if !r.member() {
		return
	}
	if !b.furnished() {
		// Name servers would tell clients that topics are not there, the template of
		// new ones among them.
		return
	}
	id := b.slaveID()
	if lead.Self {
		id = 0
	}
	r.registrar.Update(namesrv.Registration{
		Cluster: b.cfg.BrokerClusterName, BrokerName: b.name, BrokerAddr: b.addr.String(), BrokerID: id,
		Group: b.group.State().Configuration().GroupID, Term: lead.Term, Topics: b.topicTable(),
	})
}

// unregisterTimeout bounds how long name servers may take to forget a replica that
// was removed, or is fenced.
const unregisterTimeout = 5 * time.Second

// member says whether the name servers are to know this replica. They forget one
// that was removed, or is fenced, and it comes back when it is taken in again. The
// lock is held.
func (r *registration) member() bool {
	b := r.b
	fenced := b.group.Fenced() != ""
	if fenced || !b.listed() {
		if (fenced || b.group.Removed() != "") && r.registrar != nil {
			ctx, cancel := context.WithTimeout(b.ctx, unregisterTimeout)
			defer cancel()
			r.registrar.Close(ctx)
			r.registrar = nil
			b.holds.answerAll() // it says where to go on
		}
		return false
	}
	if r.registrar == nil {
		if err := r.enter(); err != nil {
			b.logger.Error("this replica can't be registered with the name servers", "error", err)
			return false
		}
	}
	return true
}

// leave unregisters, as far as ctx gives it time. Nothing is told any more.
func (r *registration) leave(ctx context.Context) {
	r.mu.Lock()
	registrar := r.registrar
	r.registrar, r.left = nil, true
	r.mu.Unlock()
	if registrar != nil {
		registrar.Close(ctx)
	}
}
