package raftgroup

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A connection between nodes begins with a hello from the side that dialled and
// an answer to it; what follows depends on the kind of stream.
//
//	+------+---------+--------+------------------+
//	| RMQP | version | length | JSON, length B   |
//	| 4 B  | 1 B     | 4 B BE | at most maxHello |
//	+------+---------+--------+------------------+
//
// The answer has the same shape.
const (
	helloMagic   = "RMQP"
	helloVersion = 1
	maxHello     = 4096
)

// The kinds of stream.
const (
	streamRaft  = "raft"  // hashicorp/raft's own protocol
	streamFetch = "fetch" // byte ranges of a CommitLog
	streamJoin  = "join"  // one question, for the leader: am I a member? see joining.go
	streamState = "state" // one question: what do you know of this group?
	// streamRejoin is another: append an entry, and where is it?
	streamRejoin = "rejoin"
	streamClock  = "clock" // and another: what does your clock show?
)

// hello says who dials whom, and for what. A node refuses what is not meant for
// it: a wiped node, back at its old address as another incarnation, must not be
// taken for its old self.
type hello struct {
	Kind    string `json:"kind"`
	Cluster string `json:"cluster"`
	Group   string `json:"group"`
	From    string `json:"from"`           // ServerID of the dialling replica
	To      string `json:"to,omitempty"`   // ServerID dialled; empty: whoever is there
	Loss    string `json:"loss,omitempty"` // of streamRejoin: why messages may be lost
}

type helloAnswer struct {
	Error string `json:"error,omitempty"`
}

var errHello = errors.New("not a raftmq peer")

func writeHello(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b := append(make([]byte, 0, 9+len(body)), helloMagic...)
	b = append(b, helloVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	_, err = w.Write(append(b, body...))
	return err
}

func readHello(r io.Reader, v any) error {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	if string(head[:4]) != helloMagic {
		return fmt.Errorf("%w: it begins with %q", errHello, head[:4])
	}
	if head[4] != helloVersion {
		return fmt.Errorf("%w of this version: it speaks version %d, we speak %d", errHello, head[4], helloVersion)
	}
	n := binary.BigEndian.Uint32(head[5:])
	if n > maxHello {
		return fmt.Errorf("%w: hello of %d bytes, at most %d", errHello, n, maxHello)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %v", errHello, err)
	}
	return nil
}
