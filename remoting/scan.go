package remoting

import (
	"fmt"
	"iter"
	"strconv"
	"unicode/utf8"
)

// Bounds of what a scanner walks through, so that a hostile text costs its sender's time and not ours.
const (
	maxJSONDepth = 64
	maxJSONItems = 1 << 20 // members and elements of one body
)

// scanner walks a JSON text value by value, keeping the first error. It reads what fastjson writes, which is more than JSON: member names
// may be bare integers ({0:"a"}) or whole objects ({{"queueId":0}:1}). Numbers may stand as strings and the reverse.
//
// A scanner that owns its text unescapes strings in place; others copy the strings that have escapes.
type scanner struct {
	b     []byte
	pos   int
	depth int
	left  int // members and elements still allowed
	owns  bool
	err   error
}

// newScanner returns a scanner of a body, which stays as it is.
func newScanner(b []byte) *scanner {
	s := &scanner{b: b, left: maxJSONItems}
	if !utf8.Valid(b) {
		s.fail("invalid UTF-8")
	}
	return s
}

func (s *scanner) fail(what string) {
	if s.err == nil {
		s.err = fmt.Errorf("JSON at byte %d of %d: %s", s.pos, len(s.b), what)
	}
	s.pos = len(s.b)
}

// peek returns the next byte that is not white space without taking it, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.b) && s.b[s.pos] > ' ' {
		return s.b[s.pos]
	}
	return s.peekFar()
}

func (s *scanner) peekFar() byte {
	for s.pos < len(s.b) {
		switch c := s.b[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// take consumes the next byte if it is c.
func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) expect(c byte) {
	if !s.take(c) {
		s.fail("expected " + strconv.QuoteRune(rune(c)))
	}
}

// open enters an object or array. null counts as an empty one: it is consumed and false returned.
func (s *scanner) open(c byte) bool {
	if s.peek() == 'n' {
		s.word("null")
		return false
	}
	if s.depth++; s.depth > maxJSONDepth {
		s.fail("nested too deeply")
		return false
	}
	s.expect(c)
	return s.err == nil
}

// more is called before each member or element, the first too; false means the object or array has ended and was left.
func (s *scanner) more(closing byte, first bool) bool {
	if s.err != nil {
		return false
	}
	c := s.peek()
	if c == closing {
		s.pos++
		s.depth--
		return false
	}
	if !first {
		if c != ',' {
			s.fail("expected ',' or " + strconv.QuoteRune(rune(closing)))
			return false
		}
		s.pos++
	}
	return s.count()
}

func (s *scanner) count() bool {
	if s.left--; s.left < 0 {
		s.fail("too many members")
		return false
	}
	return true
}

// members iterates over an object: the name of each member. The loop body reads the value, or leaves it and it is skipped.
// A name that is an object itself comes as its text.
func (s *scanner) members() iter.Seq[string] {
	return func(yield func(string) bool) {
		if !s.open('{') {
			return
		}
		for first := true; s.more('}', first); first = false {
			name := s.name()
			s.expect(':')
			at := s.pos
			if s.err != nil || !yield(name) {
				return
			}
			if s.pos == at {
				s.skip()
			}
		}
	}
}

// elements iterates over an array. The loop body reads the element, or leaves it and it is skipped.
func (s *scanner) elements() iter.Seq[int] {
	return func(yield func(int) bool) {
		if !s.open('[') {
			return
		}
		for i := 0; s.more(']', i == 0); i++ {
			at := s.pos
			if !yield(i) {
				return
			}
			if s.err == nil && s.pos == at {
				s.skip()
			}
		}
	}
}

func (s *scanner) name() string {
	switch c := s.peek(); {
	case c == '"':
		return string(s.quoted())
	case c == '{':
		at := s.pos
		s.skip()
		return string(s.b[at:s.pos])
	default:
		return string(s.number())
	}
}

// text takes any value: a string's content, a scalar's literal, an object's or array's JSON. null gives nil and false.
func (s *scanner) text() ([]byte, bool) {
	switch s.peek() {
	case '"':
		return s.quoted(), s.err == nil
	case 'n':
		s.word("null")
		return nil, false
	case 't', 'f', '{', '[':
		at := s.pos
		s.skip()
		if s.err != nil {
			return nil, false
		}
		return s.b[at:s.pos], true
	default:
		return s.number(), s.err == nil
	}
}

// string takes a scalar as text; null is "".
func (s *scanner) string() string {
	t, _ := s.text()
	return string(t)
}

// int takes a number, or a string holding one; null and "" are 0.
func (s *scanner) int(bits int) int64 {
	at := s.peek()
	t, ok := s.text()
	if !ok || len(t) == 0 {
		return 0
	}
	if n, ok := parseInt(t, bits); ok && at != '{' && at != '[' {
		return n
	}
	if f, err := strconv.ParseFloat(string(t), 64); err == nil && f == float64(int64(f)) && f > -1<<53 && f < 1<<53 && bits == 64 {
		return int64(f) // 1.7e12, as JavaScript may print it
	}
	s.fail(fmt.Sprintf("%.32q is not a %d-bit integer", t, bits))
	return 0
}

// float takes a number or a string holding one.
func (s *scanner) float() float64 {
	t, ok := s.text()
	if !ok || len(t) == 0 {
		return 0
	}
	f, err := strconv.ParseFloat(string(t), 64)
	if err != nil {
		s.fail(fmt.Sprintf("%.32q is not a number", t))
	}
	return f
}

// bool takes true or false, or a string saying so; everything else is false.
func (s *scanner) bool() bool {
	t, _ := s.text()
	return string(t) == "true"
}

// strings takes an array of scalars.
func (s *scanner) strings() []string {
	var list []string
	for range s.elements() {
		list = append(list, s.string())
	}
	return list
}

// skip takes any value. It does not recurse.
func (s *scanner) skip() {
	base := s.depth
	for s.err == nil {
		switch c := s.peek(); c {
		case '{', '[':
			s.pos++
			if s.depth++; s.depth > maxJSONDepth {
				s.fail("nested too deeply")
				return
			}
			if n := s.peek(); n != '}' && n != ']' {
				continue
			}
		case '"':
			s.skipString()
		case 't':
			s.word("true")
		case 'f':
			s.word("false")
		case 'n':
			s.word("null")
		case '}', ']':
			s.fail("expected a value")
			return
		default:
			s.number()
		}
		for s.err == nil && s.depth > base { // after a value
			c := s.peek()
			if c == '}' || c == ']' {
				s.pos++
				s.depth--
				continue
			}
			if c != ',' && c != ':' {
				s.fail("expected ',', ':' or the end of an object or array")
				return
			}
			if !s.count() {
				return
			}
			s.pos++
			break
		}
		if s.depth == base {
			return
		}
	}
}

// end checks that nothing but white space follows.
func (s *scanner) end() error {
	if s.err == nil && s.peek() != 0 {
		s.fail("text after the end")
	}
	if s.err == nil && s.pos < len(s.b) {
		s.fail("NUL byte")
	}
	return s.err
}

// done ends the decoding of a body.
func (s *scanner) done(what string) error {
	if err := s.end(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBody, what, err)
	}
	return nil
}
