package namesrv

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/raftmq/raftmq/remoting"
)

// property is a member of Options under its name in RocketMQ.
type property struct {
	name    string
	value   func(o *Options) *bool
	negated bool
}

var properties = []property{
	{"deleteTopicWithBrokerRegistration", func(o *Options) *bool { return &o.DeleteTopics }, false},
	{"orderMessageEnable", func(o *Options) *bool { return &o.OrderMessage }, false},
	{"returnOrderTopicConfigToBroker", func(o *Options) *bool { return &o.NoOrderTopicConfig }, true},
	{"supportActingMaster", func(o *Options) *bool { return &o.ActingMaster }, false},
}

// fixed are what GetNamesrvConfig shows and UpdateNamesrvConfig refuses.
func (s *Service) fixed() [][2]string {
	return [][2]string{
		{"kvConfigPath", s.cfg.KVPath},
		{"needWaitForService", strconv.FormatBool(s.cfg.WaitForService > 0)},
		{"waitSecondsForService", itoa(int64(s.cfg.WaitForService.Seconds()))},
	}
}

// handleGetConfig answers GetNamesrvConfig (319): "name=value" lines.
func (s *Service) handleGetConfig(*remoting.Command) (*remoting.Command, error) {
	var text strings.Builder
	for _, f := range s.fixed() {
		fmt.Fprintf(&text, "%s=%s\n", f[0], f[1])
	}
	s.mu.RLock()
	options := s.table.options
	s.mu.RUnlock()
	for _, p := range properties {
		fmt.Fprintf(&text, "%s=%t\n", p.name, *p.value(&options) != p.negated)
	}
	return &remoting.Command{Body: []byte(text.String())}, nil
}

// handleUpdateConfig answers UpdateNamesrvConfig (318): all of the "name=value"
// lines of its body, or none. What it sets lasts until a restart. NoPermission
// for properties that are fixed. Deviation: RocketMQ passes over unknown names
// and bad values, here they are InvalidParameter.
func (s *Service) handleUpdateConfig(req *remoting.Command) (*remoting.Command, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	options := s.table.options
	for line := range strings.Lines(string(req.Body)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		name, value, _ := strings.Cut(line, "=")
		if err := s.setProperty(&options, strings.TrimSpace(name), strings.TrimSpace(value)); err != nil {
			return nil, err
		}
	}
	s.table.options = options
	s.table.epoch++
	return &remoting.Command{}, nil
}

func (s *Service) setProperty(options *Options, name, value string) error {
	for _, p := range properties {
		if p.name != name {
			continue
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return remoting.Errorf(remoting.InvalidParameter, "%s=%.64q: want true or false", name, value)
		}
		*p.value(options) = on != p.negated
		return nil
	}
	switch name {
	case "configBlackList", "configStorePath", "rocketmqHome":
		return remoting.Errorf(remoting.NoPermission, "%s cannot be changed", name)
	}
	for _, f := range s.fixed() {
		if f[0] == name {
			return remoting.Errorf(remoting.NoPermission, "%s cannot be changed while the name server runs", name)
		}
	}
	return remoting.Errorf(remoting.InvalidParameter, "unknown property %.64q", name)
}
