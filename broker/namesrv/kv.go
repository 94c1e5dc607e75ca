package namesrv

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/raftmq/raftmq/remoting"
)

// handlePutKV answers PutKVConfig (100).
//
//	namespace, key, value  required
//
// The value counts at once. Success is answered when it is in the file, if there
// is one; if writing fails SystemError is, and the value counts until a restart.
func (s *Service) handlePutKV(req *remoting.Command) (*remoting.Command, error) {
	r := req.Ext.Reader()
	space, key, value := r.String("namespace"), r.String("key"), r.String("value")
	if err := r.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.kv.spaces[space][key]
	grow := len(value) - len(old)
	if !ok {
		grow += len(space) + len(key)
	}
	if s.kv.bytes+grow > MaxKVBytes {
		return nil, fmt.Errorf("the KV configuration would have %d bytes, the limit is %d: delete something first", s.kv.bytes+grow, MaxKVBytes)
	}
	s.kv.bytes += grow
	if s.kv.spaces[space] == nil {
		s.kv.spaces[strings.Clone(space)] = map[string]string{}
	}
	s.kv.spaces[space][strings.Clone(key)] = strings.Clone(value)
	return s.kvChanged(space, req), nil
}

// handleDeleteKV answers DeleteKVConfig (102), as handlePutKV does. Success also
// if there is no such key.
//
//	namespace, key  required
func (s *Service) handleDeleteKV(req *remoting.Command) (*remoting.Command, error) {
	r := req.Ext.Reader()
	space, key := r.String("namespace"), r.String("key")
	if err := r.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.kv.spaces[space][key]
	if !ok {
		return &remoting.Command{}, nil
	}
	s.kv.bytes -= len(space) + len(key) + len(old)
	if delete(s.kv.spaces[space], key); len(s.kv.spaces[space]) == 0 {
		delete(s.kv.spaces, space) // names of namespaces are bounded only with their keys
	}
	return s.kvChanged(space, req), nil
}

// kvChanged sees to the consequences of a change, and returns the answer unless
// the file comes first. The lock is held.
func (s *Service) kvChanged(space string, req *remoting.Command) *remoting.Command {
	if space == orderConfNS {
		s.table.epoch++
	}
	if s.kv.path == "" {
		return &remoting.Command{}
	}
	s.kv.waiting = append(s.kv.waiting, req.Responder())
	select {
	case s.kv.wake <- struct{}{}:
	default: // it is awake
	}
	return nil
}

// handleGetKV answers GetKVConfig (101): the value, or QueryNotFound.
//
//	namespace, key  required
func (s *Service) handleGetKV(req *remoting.Command) (*remoting.Command, error) {
	r := req.Ext.Reader()
	space, key := r.String("namespace"), r.String("key")
	if err := r.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	value, ok := s.kv.spaces[space][key]
	s.mu.RUnlock()
	if !ok {
		return nil, remoting.Errorf(remoting.QueryNotFound, "no key %.128q in namespace %.128q", key, space)
	}
	return &remoting.Command{Ext: remoting.Fields{{Key: "value", Value: value}}}, nil
}

// handleListKV answers GetKVListByNamespace (219): all keys and values, or
// QueryNotFound.
//
//	namespace  required
func (s *Service) handleListKV(req *remoting.Command) (*remoting.Command, error) {
	r := req.Ext.Reader()
	space := r.String("namespace")
	if err := r.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	table, ok := s.kv.spaces[space]
	if !ok {
		return nil, remoting.Errorf(remoting.QueryNotFound, "no namespace %.128q", space)
	}
	return &remoting.Command{Body: remoting.KVTable(table).AppendBody(nil)}, nil
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
