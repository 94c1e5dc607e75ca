package broker

import (
	"net"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// limited is a listener that turns away connections beyond a number, and those
// that would take the descriptors that files need.
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
		if tcp, ok := c.(*net.TCPConn); ok && l.enter(sparesFiles(tcp)) {
			return &limitedConn{TCPConn: tcp, l: l}, nil
		}
		c.Close() // nothing was exchanged
	}
}

// enter counts a connection in, unless there are too many. spare says whether the
// process has the descriptors for it.
func (l *limited) enter(spare bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.max || !spare {
		if !l.full {
			l.logger.Warn("too many connections: new ones are closed", "maxConnections", l.max, "open", l.open, "descriptorsLeft", spare,
				"todo", "if no descriptors are left, raise the limit (ulimit -n): a quarter is kept for files")
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
