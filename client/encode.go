package client

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// maxBrokerProperties is room left in the properties of a message for what brokers add.
const maxBrokerProperties = 512

// check says whether a message can be sent at all.
func (cfg *ProducerConfig) check(m *Message) error {
	if m == nil {
		return fmt.Errorf("%w: nil", ErrMessage)
	}
	if err := remoting.CheckTopic(m.Topic); err != nil {
		return fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if len(m.Body) > cfg.MaxMessageSize {
		return fmt.Errorf("%w: body of %d bytes, the limit is %d (ProducerConfig.MaxMessageSize, and the broker's maxMessageSize)", ErrMessage, len(m.Body), cfg.MaxMessageSize)
	}
	if m.delays() > 1 || m.DeliverAfter < 0 {
		return fmt.Errorf("%w: of DelayLevel %d, DeliverAfter %v and DeliverAt %v one can be set, and none is negative", ErrMessage, m.DelayLevel, m.DeliverAfter, m.DeliverAt)
	}
	return nil
}

// delays is how many kinds of delay m asks for.
func (m *Message) delays() (n int) {
	for _, set := range [...]bool{m.DelayLevel > 0, m.DeliverAfter != 0, !m.DeliverAt.IsZero()} {
		if set {
			n++
		}
	}
	return n
}

// propertyWriter encodes properties and remembers the first that cannot be.
type propertyWriter struct {
	p   remoting.Properties
	err error
}

func (w *propertyWriter) add(name, value string) {
	if err := remoting.CheckProperty(name, value); err != nil && w.err == nil {
		w.err = err
	}
	w.p = remoting.AppendProperty(w.p, name, value)
}

var propertyBuffers = sync.Pool{New: func() any { return new(propertyWriter) }}

// appendProperties appends the properties of m with its id, key.
func appendProperties(w *propertyWriter, m *Message, key string) error {
	// Not checked: it is ours, or was Properties' and is checked there.
	w.p = remoting.AppendProperty(w.p, remoting.PropUniqKey, key)
	if m.Tags != "" {
		if strings.Contains(m.Tags, "||") && w.err == nil {
			w.err = fmt.Errorf("tag %q: \"||\" separates tags in subscriptions", m.Tags)
		}
		w.add(remoting.PropTags, m.Tags)
	}
	switch {
	case len(m.Keys) == 1:
		w.add(remoting.PropKeys, m.Keys[0])
	case len(m.Keys) > 1:
		w.add(remoting.PropKeys, strings.Join(m.Keys, " "))
	}
	for _, k := range m.Keys {
		if strings.ContainsRune(k, ' ') && w.err == nil {
			w.err = fmt.Errorf("key %q: a space separates keys", k)
		}
	}
	if m.DelayLevel > 0 {
		w.add(remoting.PropDelay, strconv.Itoa(m.DelayLevel))
	}
	if m.DeliverAfter > 0 {
		w.add(remoting.PropTimerDelayMs, strconv.FormatInt((m.DeliverAfter+time.Millisecond-1).Milliseconds(), 10))
	}
	if !m.DeliverAt.IsZero() {
		w.add(remoting.PropTimerDeliverMs, strconv.FormatInt(m.DeliverAt.Add(time.Millisecond-1).UnixMilli(), 10))
	}
	if m.ShardingKey != "" {
		w.add(propShardingKey, m.ShardingKey)
	}
	for name, value := range m.Properties {
		switch {
		case name == remoting.PropTags && m.Tags != "", name == remoting.PropKeys && len(m.Keys) > 0,
			timing[name] && m.delays() > 0, name == propShardingKey && m.ShardingKey != "":
			continue // the field counts
		case name == remoting.PropUniqKey:
			if err := remoting.CheckProperty(name, value); err != nil && w.err == nil {
				w.err = err
			}
			continue
		}
		w.add(name, value)
	}
	switch {
	case w.err != nil:
		return fmt.Errorf("%w: %w", ErrMessage, w.err)
	case len(w.p) > remoting.MaxProperties-maxBrokerProperties:
		return fmt.Errorf("%w: properties of %d bytes, the limit is %d, and brokers add some", ErrMessage, len(w.p), remoting.MaxProperties)
	}
	return nil
}

// timing are the properties that a delay is asked for by.
var timing = map[string]bool{
	remoting.PropDelay: true, remoting.PropTimerDelaySec: true, remoting.PropTimerDelayMs: true, remoting.PropTimerDeliverMs: true,
}

// encodeProperties returns the encoded properties of m.
func encodeProperties(m *Message, key string) (string, error) {
	w := propertyBuffers.Get().(*propertyWriter)
	w.p, w.err = w.p[:0], nil
	err := appendProperties(w, m, key)
	text := string(w.p)
	propertyBuffers.Put(w)
	return text, err
}
