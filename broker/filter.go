package broker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/raftmq/raftmq/remoting"
)

// filter is a subscription's expression, as far as a broker looks at it: by the
// hash of a message's tag. The client looks at the tag itself.
type filter struct {
	all   bool
	codes []int64
}

// parseTags reads a tag expression: "*" or nothing for all, else tags separated
// by ||. The codes clients send are not used: they hash non-ASCII tags
// differently.
func parseTags(expression string) (filter, error) {
	if expression == "" || strings.TrimSpace(expression) == "*" {
		return filter{all: true}, nil
	}
	var f filter
	for tag := range strings.SplitSeq(expression, "||") {
		if tag = strings.TrimSpace(tag); tag != "" {
			f.codes = append(f.codes, int64(remoting.TagHash(tag)))
		}
	}
	if len(f.codes) == 0 {
		return f, fmt.Errorf("the expression %.100q names no tag", expression)
	}
	return f, nil
}

func (f *filter) match(tag int64) bool { return f.all || slices.Contains(f.codes, tag) }
