package broker

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/raftmq/raftmq/broker/namesrv"
	"github.com/raftmq/raftmq/remoting"
)

// NameServer is a name service that accepts connections.
type NameServer struct {
	service *namesrv.Service
	ended   chan struct{} // closed when no connections are accepted any more
	err     error         // why
}

// OpenNameServer runs a name service on a listener, which it closes. kvPath is
// the file that keeps its KV configuration; empty for none. wait is how long
// after its start an unknown topic may be one that nobody has registered yet.
func OpenNameServer(l net.Listener, kvPath string, wait time.Duration, logger hclog.Logger) (*NameServer, error) {
	return serveNames(l, namesrv.Config{KVPath: kvPath, WaitForService: wait, Logger: logger.Named("namesrv")})
}

func serveNames(l net.Listener, cfg namesrv.Config) (*NameServer, error) {
	service, err := namesrv.New(cfg)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	n := &NameServer{service: service, ended: make(chan struct{})}
	go func() {
		n.err = service.Serve(l)
		close(n.ended)
	}()
	return n, nil
}

// Ended is closed when no connections are accepted any more: Close says why.
func (n *NameServer) Ended() <-chan struct{} { return n.ended }

// Close answers what is on its way, as far as ctx gives it time, and closes.
func (n *NameServer) Close(ctx context.Context) error {
	err := n.service.Shutdown(ctx)
	<-n.ended
	if !errors.Is(n.err, remoting.ErrClosed) {
		err = errors.Join(err, n.err)
	}
	return err
}
