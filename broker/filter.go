package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/raftmq/raftmq/broker/sql92"
	"github.com/raftmq/raftmq/remoting"
)

// filter is a subscription's expression, as far as a broker looks at it: the hash
// of a message's tag, as the client looks at the tag itself; or SQL, which the
// client does not look at again. It does not change, and pulls with one expression
// share it.
type filter struct {
	all   bool
	codes []int64
	sql   *sql92.Expression
	size  int // bytes it takes, about
}

var allMessages = &filter{all: true}

// matchTag says whether a message with a tag is wanted. It is not for SQL.
func (f *filter) matchTag(tag int64) bool { return f.all || slices.Contains(f.codes, tag) }

// maxExpression bounds a tag expression, as sql92 does one in SQL.
const maxExpression = sql92.MaxLength

// parseTags reads a tag expression: "*" or nothing for all, else tags separated
// by ||. The codes clients send are not used: they hash non-ASCII tags
// differently.
func parseTags(expression string) (*filter, error) {
	if expression == "" || strings.TrimSpace(expression) == "*" {
		return allMessages, nil
	}
	if len(expression) > maxExpression {
		return nil, fmt.Errorf("the expression has %d bytes, the limit is %d", len(expression), maxExpression)
	}
	f := &filter{}
	for tag := range strings.SplitSeq(expression, "||") {
		if tag = strings.TrimSpace(tag); tag != "" {
			f.codes = append(f.codes, int64(remoting.TagHash(tag)))
		}
	}
	if len(f.codes) == 0 {
		return nil, fmt.Errorf("the expression %.100q names no tag", expression)
	}
	f.size = 8 * cap(f.codes)
	return f, nil
}

func parseSQL(expression string) (*filter, error) {
	e, err := sql92.Parse(expression)
	if err != nil {
		return nil, fmt.Errorf("the SQL92 expression %.100q: %w", expression, err)
	}
	return &filter{sql: e, size: e.Size()}, nil
}

// errFiltersOff: SQL is not a kind of expression here.
var errFiltersOff = errors.New("enablePropertyFilter is off")

// maxFilterCache bounds the expressions that are kept, twice, beyond those in use.
const maxFilterCache = 8 << 20

// filters are the filters that were used of late, so that an expression is parsed
// once and not for each pull.
type filters struct {
	enabled bool // SQL is

	mu         sync.Mutex
	young, old map[filterKey]*filter // what is not used while young fills up is forgotten
	size       int                   // of young
}

type filterKey struct{ kind, expression string }

// get returns the filter of an expression, or says what is wrong with it:
// errFiltersOff, or the expression itself.
func (c *filters) get(kind, expression string) (*filter, error) {
	parse := parseTags
	switch {
	case kind == "" || kind == remoting.ExpressionTag:
		kind = remoting.ExpressionTag
	case !c.enabled:
		return nil, fmt.Errorf("the broker does not filter by %.32s: %w", kind, errFiltersOff)
	case kind == remoting.ExpressionSQL92:
		parse = parseSQL
	default:
		return nil, fmt.Errorf("expressions are of type %s or %s, not %.32q", remoting.ExpressionTag, remoting.ExpressionSQL92, kind)
	}
	if len(expression) > maxExpression { // not looked for, as that reads all of it
		return parse(expression)
	}
	key := filterKey{kind, expression}
	if f := c.find(key, nil); f != nil {
		return f, nil
	}
	f, err := parse(expression)
	if err != nil || f == allMessages {
		return f, err
	}
	return c.find(key, f), nil
}

// find returns the filter that is kept, or keeps a new one.
func (c *filters) find(key filterKey, made *filter) *filter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.young[key]; f != nil {
		return f
	}
	f := c.old[key]
	if f == nil {
		f = made
	}
	if f == nil {
		return nil
	}
	if c.young == nil || c.size > maxFilterCache {
		c.young, c.old, c.size = map[filterKey]*filter{}, c.young, 0
	}
	c.young[key] = f
	c.size += f.size + len(key.expression)
	return f
}
