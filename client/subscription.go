package client

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// subscription is what a group wants of a topic: all messages, those with one of some tags, or those that SQL selects.
type subscription struct {
	topic      string
	kind       string // of expression: remoting.ExpressionTag, ExpressionSQL92
	expression string
	tags       []string // sorted; none: the broker has selected
	version    int64    // ms; the newer one counts at the broker
	listener   Listener
}

var lastVersion atomic.Int64

// parseSubscription reads a selector. SQL is left to the brokers.
func parseSubscription(topic string, selector Selector) (*subscription, error) {
	if err := remoting.CheckTopic(topic); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	s := &subscription{topic: topic, kind: remoting.ExpressionTag, expression: "*"}
	expression := string(selector)
	if sql, ok := selector.sql(); ok {
		if strings.TrimSpace(sql) == "" {
			return nil, fmt.Errorf("%w: the SQL expression is empty", ErrConfig)
		}
		s.kind, s.expression = remoting.ExpressionSQL92, sql
	} else if e := strings.TrimSpace(expression); e != "" && e != "*" {
		for _, tag := range strings.Split(expression, "||") {
			if tag = strings.TrimSpace(tag); tag != "" {
				s.tags = append(s.tags, tag)
			}
		}
		if len(s.tags) == 0 {
			return nil, fmt.Errorf("%w: the expression %q has no tag; want \"*\" or \"TagA || TagB\"", ErrConfig, expression)
		}
		slices.Sort(s.tags)
		s.tags = slices.Compact(s.tags)
		s.expression = strings.Join(s.tags, " || ")
	}
	// Versions must rise, also for two changes in one millisecond.
	for {
		last := lastVersion.Load()
		s.version = max(time.Now().UnixMilli(), last+1)
		if lastVersion.CompareAndSwap(last, s.version) {
			return s, nil
		}
	}
}

// wants tells whether a message is one of those subscribed to. Brokers select by the hash of the tag, so what they send is looked at again;
// SQL they evaluate exactly.
func (s *subscription) wants(tag string) bool {
	if len(s.tags) == 0 {
		return true
	}
	_, ok := slices.BinarySearch(s.tags, tag)
	return ok
}

// filter returns the messages that are wanted; it reuses list.
func (s *subscription) filter(list []*MessageExt) []*MessageExt {
	if len(s.tags) == 0 {
		return list
	}
	return slices.DeleteFunc(list, func(m *MessageExt) bool { return !s.wants(m.Tags) })
}

// data is the subscription in a heartbeat.
func (s *subscription) data() remoting.Subscription {
	return remoting.Subscription{
		Topic: s.topic, Expression: s.expression, Tags: s.tags, Version: s.version, ExpressionType: s.kind,
	}
}
