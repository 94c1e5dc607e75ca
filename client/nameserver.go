package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"github.com/raftmq/raftmq/remoting"
)

// nameServers asks one name server until it fails, then the next one. The first is picked at random, to spread clients.
type nameServers struct {
	c     *Client
	peers []*peer
	turn  atomic.Uint32
}

func newNameServers(c *Client, addrs []string) *nameServers {
	s := &nameServers{c: c}
	for _, a := range addrs {
		s.peers = append(s.peers, c.peer(a))
	}
	s.turn.Store(rand.Uint32N(uint32(len(addrs))))
	return s
}

// call returns the answer of the first name server that gives one, whatever its code. One that does not know a topic may be cut off from
// the brokers, or have just started, so TopicNotExist is believed only if all that answer say so.
func (s *nameServers) call(ctx context.Context, req *remoting.Command) (*remoting.Command, error) {
	var unknown *remoting.Command
	var errs []error
	first := s.turn.Load()
	for i := range uint32(len(s.peers)) {
		turn := first + i
		p := s.peers[turn%uint32(len(s.peers))]
		resp, err := p.call(ctx, req, s.c.cfg.CallTimeout, s.c.cfg.CallTimeout)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("name server %s: %w", p.addr, err))
		case resp.Code == remoting.TopicNotExist:
			unknown = resp
		default:
			if i > 0 {
				s.turn.CompareAndSwap(first, turn)
			}
			return resp, nil
		}
	}
	if unknown != nil {
		return unknown, nil
	}
	return nil, errors.Join(errs...)
}
