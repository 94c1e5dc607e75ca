package namesrv

import (
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// registration is a RegisterBroker request, checked and decoded.
type registration struct {
	remoting.BrokerIdentity
	raft   string // FieldGroup
	haAddr string
	lease  time.Duration
	acting *bool // nil: a RocketMQ broker of 4.x
	table  remoting.TopicTable
	owner  *remoting.Conn
}

// admission is what became of a registration.
type admission struct {
	ignored   bool            // R1, R2: answered Success, nothing changed
	appears   bool            // the address is new under this id
	displaced string          // the address that had this id
	master    *member         // for slaves; nil if there is none
	refused   *remoting.Error // and why
	quiet     bool            // this was refused before
}

// admit registers a broker, or says why not. The answer to every registration
// of RocketMQ's own brokers is RocketMQ's, except that one which is ignored
// leaves an entry under another id alone.
func (t *table) admit(now time.Time, r *registration) admission {
	g := t.groups[r.BrokerName]
	if g != nil && g.raft != r.raft {
		if g.alive(now) {
			return g.refuse(r)
		}
		for _, m := range g.members { // expired, not yet looked at
			t.remove(now, g, m)
		}
		g = nil
	}
	if g == nil {
		g = &group{name: r.BrokerName, raft: r.raft, members: map[int64]*member{}, queues: map[string]queue{}, leaderless: now}
	}
	old, same := g.members[r.BrokerID], g.at(r.BrokerAddr)
	term := r.table.Version.StateVersion
	if old != nil && old != same && old.alive(now) && old.version.StateVersion > term { // R1, and RocketMQ
		return admission{ignored: true}
	}
	if r.raft != "" && same != nil && same.alive(now) && same.version.StateVersion > term { // R2
		return admission{ignored: true}
	}
	// RocketMQ: a broker that changed one topic sends that one alone, and may
	// do so before it has sent all of them.
	if r.raft == "" && old == nil && len(r.table.Topics) == 1 {
		return admission{refused: remoting.Errorf(remoting.SystemError,
			"register broker failed: broker %d of %s is not registered yet, so all its topics are wanted, not one", r.BrokerID, r.BrokerName)}
	}
	if old == nil && same == nil && t.brokers >= t.maxBrokers {
		return admission{refused: remoting.Errorf(remoting.SystemError, "register broker failed: %d brokers are registered, the limit", t.maxBrokers)}
	}
	if err := t.roomFor(g, r); err != nil {
		return admission{refused: err}
	}

	a := admission{appears: old == nil || old != same}
	changed := same == nil || same.version != r.table.Version
	if same != nil && same != old { // it has another id now
		t.dismiss(now, g, same)
	}
	if old != nil && old != same {
		a.displaced = old.addr
		t.dismiss(now, g, old)
	}
	if a.appears {
		t.brokers++
		t.epoch++
		t.groups[g.name] = g
	}
	if acting := r.acting != nil && *r.acting; g.acting != acting || g.cluster != r.Cluster {
		g.acting, g.cluster = acting, r.Cluster
		t.epoch++
	}
	m := &member{id: r.BrokerID, addr: r.BrokerAddr, haAddr: r.haAddr, version: r.table.Version, lease: r.lease}
	m.refresh(now, r.owner)
	g.members[m.id] = m
	if m.id == masterID {
		g.leader, g.leaderless = m.addr, time.Time{}
	} else {
		a.master = g.members[masterID]
	}
	if g.definedBy(r) {
		t.define(g, r, old == nil || changed)
	}
	return a
}

// refuse is rule R3.
func (g *group) refuse(r *registration) admission {
	whose := func(raft string) string {
		if raft == "" {
			return "brokers without a raft group"
		}
		return "raft group " + raft
	}
	who := r.raft + " " + r.BrokerAddr
	a := admission{quiet: g.refused == who, refused: remoting.Errorf(remoting.SystemError,
		"register broker failed: broker name %s belongs to %s, which is alive, and %s is of %s; give one of them another name",
		g.name, whose(g.raft), r.BrokerAddr, whose(r.raft))}
	g.refused = who
	return a
}

// roomFor refuses a registration whose topics are beyond the bound.
func (t *table) roomFor(g *group, r *registration) *remoting.Error {
	room := t.maxRoutes - t.routes
	if len(r.table.Topics) <= room {
		return nil
	}
	for i := range r.table.Topics {
		if _, ok := g.queues[r.table.Topics[i].Name]; !ok {
			room--
		}
	}
	if room < 0 {
		return remoting.Errorf(remoting.SystemError, "register broker failed: its topics are %d more than there is room for, the limit is %d", -room, t.maxRoutes)
	}
	return nil
}

// dismiss removes a member of a group that gets another one at once.
func (t *table) dismiss(now time.Time, g *group, m *member) {
	delete(g.members, m.id)
	t.brokers--
	t.epoch++
	if m.id == masterID {
		g.leaderless = now
	}
}

// definedBy says whether the topics of a registration, which was admitted, are
// the group's.
func (g *group) definedBy(r *registration) bool {
	switch {
	case r.BrokerID == masterID:
		return true
	case r.raft != "": // R4
		return g.members[masterID] == nil && (len(g.queues) == 0 || r.table.Version.Counter > g.counter)
	default:
		return r.acting != nil && r.BrokerID == g.lowest()
	}
}

// define takes over the topics of a registration: those that are new, and all of
// them if the data version moved on or the broker is new under its id.
func (t *table) define(g *group, r *registration, moved bool) {
	g.counter = r.table.Version.Counter
	if r.raft != "" || t.options.DeleteTopics && len(r.table.Topics) != 1 {
		keep := make(map[string]bool, len(r.table.Topics))
		for i := range r.table.Topics {
			keep[r.table.Topics[i].Name] = true
		}
		t.dropTopics(g, keep)
	}
	for i := range r.table.Topics {
		c := &r.table.Topics[i]
		if _, ok := g.queues[c.Name]; ok && !moved {
			continue
		}
		// There is room: roomFor has counted.
		t.setQueue(g, c.Name, queue{read: c.ReadQueueNums, write: c.WriteQueueNums, perm: c.Perm, sysFlag: c.SysFlag})
	}
}
