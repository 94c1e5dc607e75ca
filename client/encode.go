package client

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

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
	return nil
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
	if m.ShardingKey != "" {
		w.add(propShardingKey, m.ShardingKey)
	}
	for name, value := range m.Properties {
		switch {
		case name == remoting.PropTags && m.Tags != "", name == remoting.PropKeys && len(m.Keys) > 0,
			name == remoting.PropDelay && m.DelayLevel > 0, name == propShardingKey && m.ShardingKey != "":
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

// encodeProperties returns the encoded properties of m.
func encodeProperties(m *Message, key string) (string, error) {
	w := propertyBuffers.Get().(*propertyWriter)
	w.p, w.err = w.p[:0], nil
	err := appendProperties(w, m, key)
	text := string(w.p)
	propertyBuffers.Put(w)
	return text, err
}

// compressor is a zlib writer and what it writes to.
type compressor struct {
	w     *zlib.Writer
	level int
	buf   bytes.Buffer
}

var compressors sync.Pool

// compress returns the zlib form of body, which every client can read, or body itself if that is no shorter.
func compress(body []byte, level int) (out []byte, compressed bool, err error) {
	c, _ := compressors.Get().(*compressor)
	if c == nil || c.level != level {
		c = &compressor{level: level}
		if c.w, err = zlib.NewWriterLevel(&c.buf, level); err != nil {
			return nil, false, err
		}
	}
	defer compressors.Put(c)
	c.buf.Reset()
	c.w.Reset(&c.buf)
	if _, err := c.w.Write(body); err != nil {
		return nil, false, err
	}
	if err := c.w.Close(); err != nil {
		return nil, false, err
	}
	if c.buf.Len() >= len(body) {
		return body, false, nil
	}
	return bytes.Clone(c.buf.Bytes()), true, nil
}

// maxInflated bounds what a compressed body may become: several times what brokers accept.
const maxInflated = 32 << 20

var inflaters sync.Pool

// inflate undoes zlib, unless the result has more than limit bytes.
func inflate(body []byte, limit int) ([]byte, error) {
	src := bytes.NewReader(body)
	r, _ := inflaters.Get().(io.ReadCloser)
	var err error
	if r == nil {
		r, err = zlib.NewReader(src)
	} else {
		err = r.(zlib.Resetter).Reset(src, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUndecodable, err)
	}
	defer inflaters.Put(r)
	var out bytes.Buffer
	out.Grow(min(4*len(body), limit))
	switch n, err := io.Copy(&out, io.LimitReader(r, int64(limit)+1)); {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errUndecodable, err)
	case n > int64(limit):
		return nil, fmt.Errorf("%w: it inflates to more than %d bytes", errUndecodable, limit)
	}
	return out.Bytes(), nil
}
