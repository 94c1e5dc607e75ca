package remoting

import (
	"encoding/json"
	"fmt"
)

// RaftScrub says what a replica has found that looks whether its files are as
// they were written. All is since its start; the maps have numbers by kind.
type RaftScrub struct {
	Passes   int64            `json:"passes"`          // ended
	Bytes    int64            `json:"bytes"`           // read
	Running  bool             `json:"running"`         // a pass is under way
	Begun    int64            `json:"begun,omitempty"` // when the last pass began, and the last whole one ended; milliseconds
	Ended    int64            `json:"ended,omitempty"`
	Asked    int64            `json:"asked"`    // passes that were asked for
	Answered int64            `json:"answered"` // of these, had an end, or were replaced by one that had
	Found    map[string]int64 `json:"found,omitempty"`
	Repaired map[string]int64 `json:"repaired,omitempty"`
	Error    string           `json:"error,omitempty"` // why the last pass had no end
}

// AppendBody appends it.
func (s *RaftScrub) AppendBody(dst []byte) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("remoting: %v", err)) // strings and numbers
	}
	return append(dst, b...)
}

// DecodeBody reads it.
func (s *RaftScrub) DecodeBody(b []byte) error {
	if err := json.Unmarshal(b, s); err != nil {
		return fmt.Errorf("%w: raft scrub: %w", ErrBody, err)
	}
	return nil
}
