package sql92

import (
	"fmt"
	"iter"
	"unicode/utf8"
)

// Bounds of an expression. They keep what a hostile one costs small: to parse, to
// keep, and to evaluate for each message.
const (
	MaxLength = 32 << 10 // bytes
	MaxDepth  = 100      // of parentheses and signs in each other
	MaxTerms  = 4096     // operands, operators and texts of IN lists
)

// Error says what is wrong with an expression, and where.
type Error struct {
	Position int // in characters, from 1
	Text     string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("at character %d: %s", e.Position, e.Text) }

// Expression is a parsed expression. It does not change: goroutines may share it.
type Expression struct {
	root  *node
	names map[string]int // of the properties, and where their values are kept in an evaluation
	size  int
}

// Parse reads an expression. Its error is an *Error.
func Parse(text string) (*Expression, error) {
	if len(text) > MaxLength {
		return nil, &Error{1, fmt.Sprintf("the expression has %d bytes, the limit is %d", len(text), MaxLength)}
	}
	p := parser{lexer: lexer{text: text}, names: map[string]int{}}
	p.advance()
	root := p.condition(p.or())
	if p.token.kind != tokenEnd {
		p.unexpected("the end, AND or OR")
	}
	if p.err != nil {
		return nil, &Error{utf8.RuneCountInString(text[:p.err.at]) + 1, p.err.text}
	}
	return &Expression{root, p.names, nodeSize*p.terms + len(text)}, nil
}

// nodeSize is about what a term keeps in memory.
const nodeSize = 160

// Size is about how many bytes of memory the expression takes.
func (e *Expression) Size() int { return e.size }

// Match says whether a message with these properties, names and values, is wanted.
// Of a name that occurs twice the later value counts. It keeps nothing of them.
func (e *Expression) Match(properties iter.Seq2[[]byte, []byte]) bool {
	return e.root.eval(e.valuesOf(properties)).isTrue()
}

// valuesOf is one pass, however often the expression names a property.
func (e *Expression) valuesOf(properties iter.Seq2[[]byte, []byte]) []value {
	values := make([]value, len(e.names))
	if len(values) > 0 {
		for name, v := range properties {
			if i, ok := e.names[string(name)]; ok {
				values[i] = value{kind: text, s: string(v)}
			}
		}
	}
	return values
}
