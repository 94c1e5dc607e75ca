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
	registrar *namesrv.Registrar // nil after leave
}

func newRegistration(b *Broker) (*registration, error) {
	registrar, err := namesrv.NewRegistrar(namesrv.RegistrarConfig{
		NameServers: splitAddresses(b.cfg.NamesrvAddr), Heartbeat: time.Duration(b.cfg.NamesrvHeartbeat), Logger: b.logger.Named("registrar"),
	})
	if err != nil {
		return nil, badKey("namesrvAddr", "%v", err)
	}
	return &registration{b: b, poke: make(chan struct{}, 1), registrar: registrar}, nil
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
	if r.registrar == nil || b.group.State().Configuration().GroupID == "" {
		return // nobody knows yet what this is a replica of
	}
	if !b.furnished() {
		// Name servers would tell clients that topics are not there, the template of
		// new ones among them.
		return
	}
	id := b.slaveID
	if lead.Self {
		id = 0
	}
	r.registrar.Update(namesrv.Registration{
		Cluster: b.cfg.BrokerClusterName, BrokerName: b.name, BrokerAddr: b.addr.String(), BrokerID: id,
		Group: b.group.State().Configuration().GroupID, Term: lead.Term, Topics: b.topicTable(),
	})
}

// leave unregisters, as far as ctx gives it time. Nothing is told any more.
func (r *registration) leave(ctx context.Context) {
	r.mu.Lock()
	registrar := r.registrar
	r.registrar = nil
	r.mu.Unlock()
	if registrar != nil {
		registrar.Close(ctx)
	}
}
