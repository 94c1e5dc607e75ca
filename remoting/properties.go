package remoting

import (
	"bytes"
	"fmt"
	"iter"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Names of message properties that a broker or client acts on.
const (
	PropKeys               = "KEYS" // index keys, split by spaces
	PropTags               = "TAGS"
	PropWait               = "WAIT" // "false": answer before disk and replicas confirm
	PropUniqKey            = "UNIQ_KEY"
	PropDelay              = "DELAY" // delay level
	PropRealTopic          = "REAL_TOPIC"
	PropRealQueueID        = "REAL_QID"
	PropRetryTopic         = "RETRY_TOPIC"
	PropOriginMessageID    = "ORIGIN_MESSAGE_ID"
	PropReconsumeTime      = "RECONSUME_TIME"
	PropMaxReconsumeTimes  = "MAX_RECONSUME_TIMES"
	PropTransaction        = "TRAN_MSG"
	PropProducerGroup      = "PGROUP"
	PropTransactionID      = "__transactionId__"
	PropPreparedOffset     = "TRAN_PREPARED_QUEUE_OFFSET"
	PropCheckTimes         = "TRANSACTION_CHECK_TIMES"        // how often a producer was asked about the half message
	PropCheckImmunity      = "CHECK_IMMUNITY_TIME_IN_SECONDS" // before that none is
	PropRegion             = "MSG_REGION"
	PropTraceOn            = "TRACE_ON"
	PropCluster            = "CLUSTER"
	PropCorrelationID      = "CORRELATION_ID"
	PropReplyToClient      = "REPLY_TO_CLIENT"
	PropTTL                = "TTL"
	PropMessageType        = "MSG_TYPE"
	PropPushReplyTime      = "PUSH_REPLY_TIME"
	PropArriveTime         = "ARRIVE_TIME"
	PropMinOffset          = "MIN_OFFSET"
	PropMaxOffset          = "MAX_OFFSET"
	PropInstanceID         = "INSTANCE_ID"
	PropInnerNum           = "INNER_NUM"
	PropPopCheckPoint      = "POP_CK"
	PropTimerDelaySec      = "TIMER_DELAY_SEC"
	PropTimerDelayMs       = "TIMER_DELAY_MS"
	PropTimerDeliverMs     = "TIMER_DELIVER_MS"
	PropDLQOriginTopic     = "DLQ_ORIGIN_TOPIC"
	PropDLQOriginMessageID = "DLQ_ORIGIN_MESSAGE_ID"
	PropResent             = "DLQ_RESENT" // raftmq: the OffsetMsgID of the dead letter that this is, sent again, and the request's id
)

// Properties are encoded message properties:
//
//	name 0x01 value 0x02 name 0x01 value 0x02 ...
//
// UTF-8; the last 0x02 may be missing. Where a name occurs twice the later one counts. Decoding is tolerant: pieces without 0x01 are
// passed over, and an empty value is no property, as Java clients have it.
type Properties []byte

const (
	nameEnd  = 0x01
	valueEnd = 0x02
)

// All iterates over names and values, which lie in p. Names that occur twice come twice.
func (p Properties) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for len(p) > 0 {
			var name, value []byte
			name, value, p = p.first()
			if len(value) > 0 && !yield(name, value) {
				return
			}
		}
	}
}

// first returns the first property and what follows it; value is nil for a piece without 0x01.
func (p Properties) first() (name, value []byte, rest Properties) {
	entry := []byte(p)
	if i := bytes.IndexByte(entry, valueEnd); i >= 0 {
		entry, rest = entry[:i], p[i+1:]
	}
	i := bytes.IndexByte(entry, nameEnd)
	if i < 0 {
		return entry, nil, rest
	}
	return entry[:i], entry[i+1:], rest
}

// Lookup returns the value of a property, which lies in p, and whether there is one.
func (p Properties) Lookup(name string) ([]byte, bool) {
	var found []byte
	for len(p) > 0 {
		var n, v []byte
		n, v, p = p.first()
		if len(v) > 0 && string(n) == name {
			found = v
		}
	}
	return found, found != nil
}

// Get returns the value of a property, "" if there is none.
func (p Properties) Get(name string) string {
	v, _ := p.Lookup(name)
	return string(v)
}

// AppendExcept appends p to dst without the properties named; everything else keeps its bytes. Use it, then AppendProperty, to replace.
func (p Properties) AppendExcept(dst Properties, names ...string) Properties {
next:
	for len(p) > 0 {
		name, value, rest := p.first()
		entry := p[:len(p)-len(rest)]
		p = rest
		if value != nil {
			for _, n := range names {
				if string(name) == n {
					continue next
				}
			}
		}
		dst = append(dst, entry...)
	}
	return dst
}

// AppendProperty appends one property, closing an unclosed one before it. See CheckProperty for what may be in it.
func AppendProperty(dst Properties, name, value string) Properties {
	if n := len(dst); n > 0 && dst[n-1] != valueEnd {
		dst = append(dst, valueEnd)
	}
	dst = append(append(dst, name...), nameEnd)
	return append(append(dst, value...), valueEnd)
}

// CheckProperty says whether a property can be encoded so that every client reads it back.
func CheckProperty(name, value string) error {
	switch {
	case name == "" || value == "":
		return fmt.Errorf("%w: property %q = %q: name and value must not be empty", ErrName, name, value)
	case strings.ContainsAny(name, "\x01\x02") || strings.ContainsAny(value, "\x01\x02"):
		return fmt.Errorf("%w: property %q contains the separator 0x01 or 0x02", ErrName, name)
	case !utf8.ValidString(name) || !utf8.ValidString(value):
		return fmt.Errorf("%w: property %q is not valid UTF-8", ErrName, name)
	}
	return nil
}

// TagHash is Java's String.hashCode of a tag, over UTF-16 units. A ConsumeQueue unit holds it sign-extended to 64 bits, 0 for no tag.
func TagHash[T string | []byte](tag T) int32 {
	var h int32
	for i := 0; i < len(tag); {
		if c := tag[i]; c < utf8.RuneSelf {
			h = 31*h + int32(c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(string(tag[i:]))
		i += n
		if hi, lo := utf16.EncodeRune(r); hi != utf8.RuneError {
			h = 31*(31*h+hi) + lo
		} else {
			h = 31*h + r
		}
	}
	return h
}
