package namesrv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// replica is a registration of broker-a.
func replica(id int64, addr string, term uint64, topics ...string) Registration {
	r := Registration{Cluster: "c", BrokerName: "broker-a", BrokerAddr: addr, BrokerID: id, Group: "g", Term: term}
	for _, name := range append(topics, "T") {
		r.Topics.Topics = append(r.Topics.Topics, remoting.NewTopicConfig(name))
	}
	r.Topics.Version.Counter = int64(len(topics))
	return r
}

// registrar starts one on a wire.
func (w *wire) registrar(t testing.TB, cfg RegistrarConfig, servers ...string) *Registrar {
	t.Helper()
	cfg.NameServers = servers
	if cfg.Dial == nil {
		cfg.Dial = w.dial
	}
	r, err := NewRegistrar(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(context.Background()) })
	return r
}

// addrs shows the addresses of broker-a at a service.
func addrs(s *Service) string { return fmt.Sprint(s.Clusters().Brokers["broker-a"].Addrs) }

func TestHA08Registrar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		one, two := w.serve(t, "ns:1", Config{}), w.serve(t, "ns:2", Config{})
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			if a, b := addrs(one), addrs(two); a != want || b != want {
				t.Errorf("registered are %s and %s, want %s", a, b, want)
			}
		}
		r := w.registrar(t, RegistrarConfig{}, "ns:1", " ns:2 ", "ns:1", "")
		expect("map[]")
		for _, s := range r.Status() {
			if !s.Connected || s.Current || s.LastError != nil || !s.LastSuccess.IsZero() {
				t.Errorf("before the first Update: %+v", s)
			}
		}
		r.Update(replica(0, "a:1", 5))
		expect("map[0:a:1]")
		r.Update(replica(2, "a:1", 6, "U"))
		expect("map[2:a:1]")
		if d, ok := one.Routes("U"); !ok || d.Queues[0].ReadQueueNums != 16 {
			t.Errorf("the new topic: %t, %+v", ok, d)
		}
		status := r.Status()
		for _, s := range status {
			if !s.Connected || !s.Current || s.LastError != nil || !s.LastSuccess.Equal(time.Now()) {
				t.Errorf("registered: %+v", s)
			}
		}
		if len(status) != 2 || status[0].Address != "ns:1" || status[1].Address != "ns:2" {
			t.Errorf("%+v", status)
		}
		time.Sleep(time.Hour)
		expect("map[2:a:1]")
		if s := r.Status()[0]; time.Since(s.LastSuccess) > 11*time.Second || s.LastError != nil {
			t.Errorf("an hour later: %+v", s)
		}
		r.Update(replica(0, "a:1", 7, "U"))
		expect("map[0:a:1]")
		// Deleted by an operator, it comes back, as the broker has it.
		w.client(t, "ns:1").ok(remoting.DeleteTopicInNamesrv, "topic", "U")
		time.Sleep(fullEvery + 11*time.Second)
		if _, ok := one.Routes("U"); !ok {
			t.Error("a topic is missing for more than a minute")
		}
		r.Close(context.Background())
		expect("map[]")
		r.Update(replica(0, "a:1", 8))
		expect("map[]")
		r.Close(context.Background())
	})
}

// recorder is a name server that answers as it is told.
type recorder struct {
	mu     sync.Mutex
	codes  []int32
	answer func(req *remoting.Command) *remoting.Command // nil: no answer
	server remoting.Server
}

func (w *wire) recorder(t testing.TB, addr string, answer func(*remoting.Command) *remoting.Command) *recorder {
	rec := &recorder{answer: answer}
	rec.server.Handler = rec
	l := w.listen(addr)
	served := make(chan error, 1)
	go func() { served <- rec.server.Serve(l) }()
	t.Cleanup(func() {
		rec.server.Close()
		if err := <-served; !errors.Is(err, remoting.ErrClosed) {
			t.Error(err)
		}
	})
	return rec
}

func (rec *recorder) ServeRemoting(_ *remoting.Conn, req *remoting.Command) {
	rec.mu.Lock()
	rec.codes = append(rec.codes, req.Code)
	rec.mu.Unlock()
	if resp := rec.answer(req); resp != nil {
		req.Responder().Respond(resp)
	}
}

func (rec *recorder) take() []int32 {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	codes := rec.codes
	rec.codes = nil
	return codes
}

// TestRegistrarRequests: what goes over the wire, also to a name server that does
// not know QueryDataVersion, and to one that refuses.
func TestRegistrarRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		requests := make(chan *remoting.Command, 10)
		known := w.recorder(t, "known:1", func(req *remoting.Command) *remoting.Command {
			switch req.Code {
			case remoting.RegisterBroker:
				requests <- req.Clone()
			case remoting.QueryDataVersion:
				return &remoting.Command{Header: &remoting.QueryDataVersionResponse{}}
			}
			return &remoting.Command{}
		})
		old := w.recorder(t, "old:1", func(req *remoting.Command) *remoting.Command {
			if req.Code == remoting.QueryDataVersion {
				return &remoting.Command{Code: remoting.RequestCodeNotSupported, Remark: "request type 322 not supported"}
			}
			return &remoting.Command{}
		})
		grumpy := w.recorder(t, "grumpy:1", func(*remoting.Command) *remoting.Command {
			return &remoting.Command{Code: remoting.SystemError, Remark: "register broker failed"}
		})
		r := w.registrar(t, RegistrarConfig{}, "known:1", "old:1", "grumpy:1")
		r.Update(replica(0, "a:1", 1<<40, "U"))
		synctest.Wait()

		request := <-requests
		var h remoting.RegisterRequest
		var body remoting.RegisterBody
		if err := h.Decode(request); err != nil {
			t.Fatal(err)
		}
		if err := body.DecodeBody(request.Body); err != nil {
			t.Fatal(err)
		}
		acting := false
		want := remoting.RegisterRequest{
			BrokerIdentity: remoting.BrokerIdentity{Cluster: "c", BrokerName: "broker-a", BrokerAddr: "a:1"}, HAServerAddr: "a:1",
			HeartbeatTimeout: 40_000, EnableActingMaster: &acting, BodyCRC32: remoting.RegisterCRC(request.Body)}
		if h.EnableActingMaster == nil || *h.EnableActingMaster {
			t.Errorf("enableActingMaster: %v", h.EnableActingMaster)
		}
		h.EnableActingMaster = &acting
		if h != want || request.Ext.Get(FieldGroup) != "g" || request.Ext.Get("compressed") != "false" || request.Serialize != remoting.JSON || request.Version != remoting.Version {
			t.Errorf("%+v\n%v", h, request)
		}
		if v := body.Version; v.StateVersion != 1<<40 || v.Counter != 1 || len(body.Topics) != 2 {
			t.Errorf("%+v", body)
		}

		// A change is registered, not asked about: RocketMQ's name server would
		// not see that only the id has changed.
		known.take()
		r.Update(replica(1, "a:1", 1<<40, "U"))
		synctest.Wait()
		if codes := known.take(); !slices.Equal(codes, []int32{remoting.RegisterBroker}) {
			t.Errorf("an Update sends %v", codes)
		}
		r.Update(replica(0, "a:1", 1<<40, "U"))

		time.Sleep(fullEvery + 2*time.Second)
		r.Close(context.Background())
		const reg, query, unreg = remoting.RegisterBroker, remoting.QueryDataVersion, remoting.UnregisterBroker
		// A heartbeat each 9 to 11 s.
		if codes := known.take(); codes[0] != reg || codes[1] != query || codes[len(codes)-1] != unreg || count(codes, query) < 5 || count(codes, reg) > 2 {
			t.Errorf("to one that knows: %v", codes)
		}
		if codes := old.take(); count(codes, query) < 5 || count(codes, reg) < count(codes, query) || codes[len(codes)-1] != unreg {
			t.Errorf("to an old one: %v", codes)
		}
		if codes := grumpy.take(); count(codes, reg) < 6 || count(codes, query) != 0 {
			t.Errorf("to one that refuses: %v", codes)
		}
		s := r.Status()[2]
		if s.LastError == nil || !strings.Contains(s.LastError.Error(), "grumpy:1") || !strings.Contains(s.LastError.Error(), "register broker failed") || !s.LastSuccess.IsZero() {
			t.Errorf("%+v", s)
		}
		var refusal *remoting.Error
		if !errors.As(s.LastError, &refusal) || refusal.Code != remoting.SystemError {
			t.Errorf("%v", s.LastError)
		}
	})
}

func count(list []int32, code int32) (n int) {
	for _, c := range list {
		if c == code {
			n++
		}
	}
	return n
}

// TestRegistrarSlowServers: of four name servers one is down, one takes
// connections only, one does not even take those, and the fourth hears everything
// at once.
func TestRegistrarSlowServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		good := w.serve(t, "good:1", Config{})
		mute := w.recorder(t, "mute:1", func(*remoting.Command) *remoting.Command { return nil })
		hang := w.listen("hang:1")
		defer hang.Close()
		r := w.registrar(t, RegistrarConfig{}, "down:1", "mute:1", "hang:1", "good:1")
		begun := time.Now()
		for term := range uint64(20) {
			r.Update(replica(int64(term%2), "a:1", term))
			synctest.Wait()
			if got, want := addrs(good), fmt.Sprintf("map[%d:a:1]", term%2); got != want {
				t.Errorf("term %d: %s, want %s", term, got, want)
			}
		}
		if !time.Now().Equal(begun) {
			t.Errorf("it took %v", time.Since(begun))
		}
		time.Sleep(time.Minute)
		for i, s := range r.Status() {
			bad := i < 3
			if (s.LastError != nil) != bad || s.Current == bad || s.LastSuccess.IsZero() != bad {
				t.Errorf("%+v", s)
			}
		}
		if n := len(mute.take()); n < 8 || n > 13 {
			t.Errorf("%d requests to a mute name server in a minute, 5 s and up to 1 s apart", n)
		}
		// Close with a deadline does not wait longer for those that hang.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begun = time.Now()
		r.Close(ctx)
		if d := time.Since(begun); d > time.Second {
			t.Errorf("Close took %v", d)
		}
		if got := addrs(good); got != "map[]" {
			t.Errorf("after Close: %s", got)
		}
	})
}

// TestRegistrarBackoff counts the attempts to reach a name server that is down.
func TestRegistrarBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var attempts []time.Duration
		begun := time.Now()
		w := newWire()
		r := w.registrar(t, RegistrarConfig{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			mu.Lock()
			attempts = append(attempts, time.Since(begun))
			mu.Unlock()
			return w.dial(ctx, addr)
		}}, "ns:1")
		r.Update(replica(0, "a:1", 1))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		mu.Lock()
		at := slices.Clone(attempts)
		mu.Unlock()
		longest := minReconnect
		for i := 1; i < len(at); i++ {
			if gap := at[i] - at[i-1]; gap < longest/2 || gap >= longest {
				t.Errorf("attempt %d after %v, want %v to %v", i, gap, longest/2, longest)
			}
			longest = min(2*longest, maxReconnect)
		}
		if n := len(at); n < 30 || n > 70 {
			t.Errorf("%d attempts in 30 s", n)
		}
		s := w.serve(t, "ns:1", Config{})
		time.Sleep(maxReconnect)
		synctest.Wait()
		if got := addrs(s); got != "map[0:a:1]" {
			t.Error(got)
		}
	})
}

// TestHA09TwoLeaders has the registrars of two replicas claim to lead, with terms 5
// and 6, in every order and with lost connections between. Whatever the order,
// once the replica of term 6 has spoken it is id 0 at every name server.
func TestHA09TwoLeaders(t *testing.T) {
	type step struct {
		who int // 0, 1
		reg Registration
	}
	steps := []step{
		{0, replica(0, "a:1", 5)},
		{0, replica(1, "a:1", 6)},
		{1, replica(2, "b:1", 5)},
		{1, replica(0, "b:1", 6)},
	}
	rng := rand.New(rand.NewPCG(seed(t), 2))
	// The steps of one replica come in order; those of two mix in every way.
	for mix := range 1 << len(steps) {
		synctest.Test(t, func(t *testing.T) {
			w := newWire()
			services := []*Service{w.serve(t, "ns:1", Config{}), w.serve(t, "ns:2", Config{})}
			registrars := []*Registrar{w.registrar(t, RegistrarConfig{}, "ns:1", "ns:2"), w.registrar(t, RegistrarConfig{}, "ns:1", "ns:2")}
			next := [2]int{0, 2}
			var order []string
			done := func(who int) bool { return next[who] == 2*(who+1) }
			for i := 0; !done(0) || !done(1); i++ {
				who := mix >> (i % len(steps)) & 1
				if done(who) {
					who = 1 - who
				}
				s := steps[next[who]]
				next[who]++
				order = append(order, fmt.Sprintf("%s is %d in term %d", s.reg.BrokerAddr, s.reg.BrokerID, s.reg.Term))
				registrars[who].Update(s.reg)
				switch rng.IntN(3) {
				case 0: // both speak at once
					continue
				case 1: // lose every connection
					for _, ns := range services {
						for _, c := range ns.server.Conns() {
							c.Fail(errors.New("cut"))
						}
					}
					time.Sleep(2 * time.Second)
				case 2: // heartbeats
					time.Sleep(25 * time.Second)
				}
				synctest.Wait()
				for _, ns := range services {
					got := ns.Clusters().Brokers["broker-a"].Addrs
					if done(1) && got[0] != "b:1" {
						t.Errorf("%v: %v, the leader of term 6 is not there", order, got)
					}
					if done(0) && got[1] != "a:1" {
						t.Errorf("%v: %v, the follower is not there", order, got)
					}
				}
			}
			time.Sleep(5 * time.Second)
			for _, ns := range services {
				if got := addrs(ns); got != "map[0:b:1 1:a:1]" {
					t.Errorf("%v: %s", order, got)
				}
			}
		})
	}
}

// TestServiceRestarts: a name service comes back empty while brokers and clients
// stay. Within the reconnect interval its routes are complete, and at no moment
// does it say that a topic does not exist.
func TestServiceRestarts(t *testing.T) {
	for _, expect := range []bool{false, true} {
		t.Run(fmt.Sprintf("expect=%t", expect), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire()
				cfg := Config{}
				var replicas []*Registrar
				for _, group := range []string{"broker-a", "broker-b", "broker-c"} {
					for id := range int64(3) {
						reg := replica(id, fmt.Sprintf("%s-%d:1", group, id), 7, "U", "V")
						reg.BrokerName, reg.Group = group, group
						if expect {
							cfg.Expect = append(cfg.Expect, Broker{group, reg.BrokerAddr})
						}
						r := w.registrar(t, RegistrarConfig{}, "ns:1")
						r.Update(reg)
						replicas = append(replicas, r)
					}
				}
				start := func() *Service {
					s, err := New(cfg)
					if err != nil {
						t.Fatal(err)
					}
					go s.Serve(w.listen("ns:1"))
					return s
				}
				complete := func(s *Service) bool {
					d, _ := s.Routes("U")
					for _, b := range d.Brokers {
						if len(b.Addrs) != 3 {
							return false
						}
					}
					return len(d.Brokers) == 3
				}
				s := start()
				time.Sleep(maxReconnect)
				if !complete(s) {
					t.Fatal("not complete at first")
				}
				for range 5 {
					s.Close()
					time.Sleep(rand.N(20 * time.Second))
					s = start()
					begun := time.Now()
					for !complete(s) {
						c := w.client(t, "ns:1")
						if _, code := c.route("U"); code != remoting.Success && code != remoting.SystemError {
							t.Errorf("%v after the restart: code %d", time.Since(begun), code)
						}
						c.Close()
						time.Sleep(time.Millisecond)
					}
					if d := time.Since(begun); d > maxReconnect {
						t.Errorf("complete after %v", d)
					}
					if s.Ready() != expect {
						t.Errorf("complete, expecting brokers: %t, ready: %t", expect, s.Ready())
					}
				}
				for _, r := range replicas {
					r.Close(context.Background())
				}
				checkTable(t, s)
				if d, ok := s.Routes("U"); ok {
					t.Errorf("all brokers have left: %+v", d)
				}
				s.Close()
			})
		})
	}
}

// TestRefusedUntilFree: a broker whose name another raft group holds gets it when
// that one is gone.
func TestRefusedUntilFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := w.serve(t, "ns:1", Config{})
		first, second := w.registrar(t, RegistrarConfig{}, "ns:1"), w.registrar(t, RegistrarConfig{}, "ns:1")
		first.Update(replica(0, "a:1", 5))
		synctest.Wait()
		other := replica(0, "x:1", 9)
		other.Group = "other"
		second.Update(other)
		time.Sleep(time.Minute)
		if got := addrs(s); got != "map[0:a:1]" {
			t.Error(got)
		}
		if st := second.Status()[0]; st.Current || st.LastError == nil || !strings.Contains(st.LastError.Error(), "raft group g") {
			t.Errorf("%+v", st)
		}
		first.Close(context.Background())
		time.Sleep(11 * time.Second)
		if got := addrs(s); got != "map[0:x:1]" {
			t.Error(got)
		}
	})
}

func TestRegistrarConfigRefused(t *testing.T) {
	for _, cfg := range []RegistrarConfig{
		{NameServers: []string{"nohost"}}, {Heartbeat: -1}, {CallTimeout: -1}, {Heartbeat: 10 * time.Second, Lease: 10 * time.Second}, {Lease: maxLease + 1},
	} {
		if r, err := NewRegistrar(cfg); err == nil {
			r.Close(context.Background())
			t.Errorf("%+v is taken", cfg)
		}
	}
	if got := nameServers([]string{"a:1", "", "b:1 ", "a:1"}); !slices.Equal(got, []string{"a:1", "b:1"}) {
		t.Error(got)
	}
}

// TestWait: it is over when the name servers that are connected have answered.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := w.serve(t, "ns:1", Config{})
		release := make(chan struct{})
		w.recorder(t, "slow:1", func(*remoting.Command) *remoting.Command {
			<-release
			return &remoting.Command{Code: remoting.SystemError, Remark: "no"}
		})
		r := w.registrar(t, RegistrarConfig{}, "ns:1", "slow:1", "down:1")
		synctest.Wait()
		waiting := func(timeout time.Duration) chan error {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			done := make(chan error, 1)
			go func() { defer cancel(); done <- r.Wait(ctx) }()
			return done
		}
		if err := <-waiting(time.Second); err != nil {
			t.Errorf("before the first Update: %v", err)
		}
		r.Update(replica(0, "a:1", 1))
		begun := time.Now()
		if err := <-waiting(time.Second); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("with one that is slow: %v after %v", err, time.Since(begun))
		}
		done := waiting(time.Minute)
		r.Update(replica(0, "a:1", 2))
		release <- struct{}{} // the answer to the first
		release <- struct{}{} // and to the second
		if err := <-done; err != nil || time.Since(begun) != time.Second {
			t.Errorf("answered: %v after %v", err, time.Since(begun))
		}
		if got := addrs(s); got != "map[0:a:1]" {
			t.Error(got)
		}
		r.Update(replica(0, "a:1", 3))
		done = waiting(time.Minute)
		time.Sleep(5 * time.Second) // CallTimeout: the connection is given up
		if err := <-done; err != nil || time.Since(begun) != 6*time.Second {
			t.Errorf("given up: %v after %v", err, time.Since(begun))
		}
		close(release)
	})
}
