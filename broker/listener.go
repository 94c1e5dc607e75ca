package broker

import (
	"net"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// limited is a listener that turns away connections beyond a number.
type limited struct {
	net.Listener
	max    int
	logger hclog.Logger

	mu   sync.Mutex
	open int
	full bool // said so already
}

func limitListener(l net.Listener, limit int, logger hclog.Logger) net.Listener {
	return &limited{Listener: l, max: limit, logger: logger}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if tcp, ok := c.(*net.TCPConn); ok && l.enter() {
			return &limitedConn{TCPConn: tcp, l: l}, nil
		}
		c.Close() // nothing was exchanged
	}
}

func (l *limited) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.max {
		if !l.full {
			l.logger.Warn("too many connections: new ones are closed", "maxConnections", l.max)
		}
		l.full = true
		return false
	}
	l.open++
	l.full = false
	return true
}

// limitedConn embeds the concrete type: net.Buffers asks for its unexported
// method, without which there is no writev.
type limitedConn struct {
	*net.TCPConn
	l    *limited
	once sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() {
		c.l.mu.Lock()
		c.l.open--
		c.l.mu.Unlock()
	})
	return c.TCPConn.Close()
}
