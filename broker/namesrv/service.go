package namesrv

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/remoting"
)

// Service is a name service. It answers the requests of brokers, clients and
// mqadmin; see the package comment for its rules and the handle functions for
// the requests. It is safe for use by several goroutines.
//
// Serve accepts connections. Instead, a Service may be the Handler of a
// remoting.Server that is there already, if that one's OnClose calls ConnClosed.
type Service struct {
	cfg     Config
	logger  hclog.Logger
	started time.Time
	ready   atomic.Bool
	held    heldRoutes
	server  remoting.Server
	closed  chan struct{}
	closing sync.Once
	running sync.WaitGroup // scan, kv.keep

	mu      sync.RWMutex
	table   *table
	missing map[Broker]bool // not registered yet
	kv      *kvStore
}

// New starts a service. It fails if the configuration is wrong or the file of
// the KV configuration cannot be read. Call Close when done.
func New(cfg Config) (*Service, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	kv, err := openKV(cfg.FS, cfg.KVPath)
	if err != nil {
		return nil, err
	}
	s := &Service{
		cfg: cfg, logger: cfg.Logger, started: time.Now(), closed: make(chan struct{}),
		table: newTable(cfg.StandIn, cfg.Options), missing: map[Broker]bool{}, kv: kv,
	}
	for _, e := range cfg.Expect {
		s.missing[e] = true
	}
	s.server.Handler = s
	s.server.Conn = cfg.Conn
	s.server.Conn.OnClose = func(c *remoting.Conn, err error) {
		s.ConnClosed(c, err)
		if cfg.Conn.OnClose != nil {
			cfg.Conn.OnClose(c, err)
		}
	}
	s.running.Go(s.scan)
	if kv.path != "" {
		s.running.Go(s.keepKV)
	}
	return s, nil
}

// Serve accepts connections of l, which it owns, until Shutdown or Close; then it
// returns remoting.ErrClosed.
func (s *Service) Serve(l net.Listener) error { return s.server.Serve(l) }

// Shutdown completes the requests in flight, then closes. When ctx ends, the
// connections are closed at once, and ctx's error is returned.
func (s *Service) Shutdown(ctx context.Context) error {
	s.releaseRoutes()
	err := s.server.Shutdown(ctx)
	s.closing.Do(func() { close(s.closed) })
	s.running.Wait()
	return err
}

// Close closes listeners and connections, and waits for its goroutines. A change
// of the KV configuration that is under way is written first.
func (s *Service) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx) // its error is ctx's
	return nil
}

// Ready says whether an unknown topic is one that does not exist. Once true it
// stays so.
func (s *Service) Ready() bool {
	if s.ready.Load() {
		return true
	}
	if time.Since(s.started) < s.cfg.WaitForService {
		return false
	}
	s.becomeReady("waited long enough")
	return true
}

func (s *Service) becomeReady(why string) {
	if s.ready.CompareAndSwap(false, true) {
		s.logger.Info("name service is ready", "reason", why, "after", time.Since(s.started))
		s.releaseRoutes()
	}
}

// scan removes brokers that gave no sign of life.
func (s *Service) scan() {
	ticker := time.NewTicker(scanPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-s.closed:
			return
		case <-ticker.C:
			s.mu.Lock()
			list := s.table.expire(time.Now())
			s.mu.Unlock()
			s.logGone(list, "no sign of life")
		}
	}
}

// ConnClosed unregisters the brokers that registered over a connection. It has
// the form of remoting.ConnConfig.OnClose.
func (s *Service) ConnClosed(c *remoting.Conn, err error) {
	s.mu.Lock()
	list := s.table.closed(time.Now(), c)
	s.mu.Unlock()
	if len(list) > 0 {
		s.logGone(list, "connection closed: "+err.Error())
	}
}

func (s *Service) logGone(list []gone, why string) {
	for _, b := range list {
		s.logger.Info("broker is gone", "broker", b.name, "id", b.id, "address", b.addr, "reason", why)
	}
}

// handler answers one request. A response without error and code is Success; nil
// without an error means that the answer comes later. It must not keep req.
type handler func(s *Service, req *remoting.Command) (*remoting.Command, error)

var handlers = map[int32]handler{
	remoting.RegisterBroker:       (*Service).handleRegister,
	remoting.UnregisterBroker:     (*Service).handleUnregister,
	remoting.QueryDataVersion:     (*Service).handleQueryDataVersion,
	remoting.BrokerHeartbeat:      (*Service).handleHeartbeat,
	remoting.GetBrokerMemberGroup: (*Service).handleMemberGroup,

	remoting.GetRouteInfoByTopic:           (*Service).handleRoute,
	remoting.GetBrokerClusterInfo:          (*Service).handleClusterInfo,
	remoting.GetAllTopicListFromNameserver: (*Service).handleTopicList,
	remoting.GetTopicsByCluster:            (*Service).handleTopicsByCluster,
	remoting.GetSystemTopicListFromNS:      (*Service).handleSystemTopics,
	remoting.GetUnitTopicList:              unitTopics(isUnit),
	remoting.GetHasUnitSubTopicList:        unitTopics(hasUnitSub),
	remoting.GetHasUnitSubUnUnitTopicList:  unitTopics(hasUnitSubNotUnit),

	remoting.DeleteTopicInNamesrv:   (*Service).handleDeleteTopic,
	remoting.RegisterTopicInNamesrv: (*Service).handleRegisterTopic,
	remoting.WipeWritePermOfBroker:  (*Service).handleWipeWritePerm,
	remoting.AddWritePermOfBroker:   (*Service).handleAddWritePerm,
	remoting.PutKVConfig:            (*Service).handlePutKV,
	remoting.GetKVConfig:            (*Service).handleGetKV,
	remoting.DeleteKVConfig:         (*Service).handleDeleteKV,
	remoting.GetKVListByNamespace:   (*Service).handleListKV,
	remoting.UpdateNamesrvConfig:    (*Service).handleUpdateConfig,
	remoting.GetNamesrvConfig:       (*Service).handleGetConfig,
}

// ServeRemoting implements remoting.Handler.
func (s *Service) ServeRemoting(_ *remoting.Conn, req *remoting.Command) {
	respond := req.Responder()
	handle := handlers[req.Code]
	if handle == nil {
		respond.Respond(&remoting.Command{Code: remoting.RequestCodeNotSupported,
			Remark: "request " + remoting.RequestName(req.Code) + " is not supported by a name server: code " + itoa(int64(req.Code))})
		return
	}
	switch resp, err := handle(s, req); {
	case err != nil:
		respond.Error(err)
	case resp != nil:
		respond.Respond(resp)
	}
}
