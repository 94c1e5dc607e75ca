package sql92

import (
	"math"
	"strconv"
)

// parser builds the tree of an expression by recursive descent. The first error
// stays; what is built behind it is not used.
type parser struct {
	lexer
	token token
	names map[string]int
	depth int
	terms int
}

// operand is an expression and what may be done with it.
type operand struct {
	*node
	at int // where it begins
}

func (p *parser) advance() { p.token = p.next() }

// take passes over a token if it is there.
func (p *parser) take(kind tokenKind, text string) bool {
	if !p.token.is(kind, text) {
		return false
	}
	p.advance()
	return true
}

func (p *parser) want(kind tokenKind, text string) {
	if !p.take(kind, text) {
		p.unexpected(text)
	}
}

func (p *parser) unexpected(wanted string) {
	found := p.token.text
	if p.token.kind == tokenSymbol {
		// The one before may be part of it: == is two symbols.
		if at := p.token.at; at > 0 && p.text[at-1] == '=' {
			found = p.text[at-1:]
		}
	}
	at := p.token.at
	p.fail(at, "unexpected %v, want %s%s", p.token, wanted, hint(found))
	p.token = token{kind: tokenEnd, at: at}
}

// make counts a term.
func (p *parser) make(n node, at int) operand {
	p.count(at)
	return operand{&n, at}
}

func (p *parser) count(at int) {
	if p.terms++; p.terms > MaxTerms {
		p.fail(at, "the expression has more than %d terms", MaxTerms)
		p.token = token{kind: tokenEnd, at: at}
	}
}

func (p *parser) or() operand  { return p.chain("OR", opOr, p.and) }
func (p *parser) and() operand { return p.chain("AND", opAnd, p.equality) }

func (p *parser) chain(word string, op op, part func() operand) operand {
	first := part()
	if !p.token.is(tokenKeyword, word) {
		return first
	}
	kids := []*node{p.condition(first)}
	for p.take(tokenKeyword, word) {
		kids = append(kids, p.condition(part()))
	}
	return p.make(node{op: op, kids: kids}, first.at)
}

// condition makes sure of a boolean: a property alone is one, if it is TRUE or
// FALSE, which it never is as it is text.
func (p *parser) condition(x operand) *node {
	switch {
	case x.node.boolean():
		return x.node
	case x.op == opProperty:
		return p.make(node{op: opCast, kids: []*node{x.node}}, x.at).node
	}
	p.fail(x.at, "%s is no condition", x.describe())
	return x.node
}

func (p *parser) equality() operand {
	left := p.comparison()
	for {
		at := p.token.at
		switch {
		case p.take(tokenSymbol, "="):
			left = p.equal(left, at, p.comparison())
		case p.take(tokenSymbol, "<>"):
			left = p.not(p.equal(left, at, p.comparison()))
		case p.take(tokenKeyword, "IS"):
			negated := p.take(tokenKeyword, "NOT")
			if !p.take(tokenKeyword, "NULL") {
				p.unexpected("NULL")
			}
			null := p.make(node{op: opConstant}, at)
			left = p.make(node{op: opEqual, kids: []*node{left.node, null.node}}, left.at)
			if negated {
				left = p.not(left)
			}
		default:
			return left
		}
	}
}

func (p *parser) not(x operand) operand { return p.make(node{op: opNot, kids: []*node{x.node}}, x.at) }

func (p *parser) equal(left operand, at int, right operand) operand {
	for _, x := range []operand{left, right} {
		if x.op == opConstant && x.value.kind == null {
			p.fail(at, "nothing equals NULL: write IS NULL or IS NOT NULL")
		}
	}
	if left.op == opConstant && right.op == opConstant && left.value.kind == truth && right.value.kind != truth {
		p.fail(at, "%s can't be compared with %s", left.describe(), right.describe())
	}
	return p.make(node{op: opEqual, kids: []*node{left.node, right.node}}, left.at)
}

func (p *parser) comparison() operand {
	left := p.unary()
	for {
		if o, ok := orders[p.token.text]; ok && p.token.kind == tokenSymbol {
			p.advance()
			right := p.unary()
			p.number(left)
			p.number(right)
			left = p.make(node{op: opOrder, order: o, kids: []*node{left.node, right.node}}, left.at)
			continue
		}
		negated := p.take(tokenKeyword, "NOT")
		word := p.token
		if word.kind != tokenKeyword {
			word.text = ""
		}
		switch word.text {
		case "BETWEEN":
			p.advance()
			left = p.between(left, negated)
		case "IN":
			p.advance()
			left = p.in(left, negated)
		case "CONTAINS", "STARTSWITH", "ENDSWITH":
			p.advance()
			part := p.literalText()
			left = p.make(node{op: opText, not: negated, test: textTests[word.text], value: value{kind: text, s: part}, kids: []*node{left.node}}, left.at)
		default:
			if negated {
				p.unexpected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH behind NOT")
			}
			return left
		}
	}
}

// number makes sure that an operand may be compared by < and >.
func (p *parser) number(x operand) {
	switch {
	case x.op == opConstant && !x.value.number():
		p.fail(x.at, "%s can't be compared by <, <=, >, >= or BETWEEN: only numbers can", x.describe())
	case x.op != opConstant && x.node.boolean():
		p.fail(x.at, "a condition can't be compared by <, <=, >, >= or BETWEEN: only numbers can")
	}
}

func (p *parser) between(left operand, negated bool) operand {
	low := p.unary()
	p.want(tokenKeyword, "AND")
	high := p.unary()
	for _, x := range []operand{left, low, high} {
		p.number(x)
	}
	// Signed numbers are not literals, so their order is not looked at.
	if p.err == nil && !negated && low.op == opConstant && high.op == opConstant {
		if c, _ := compare(high.value, low.value); c < 0 {
			p.fail(low.at, "BETWEEN %s AND %s: the first is the greater one", low.describe(), high.describe())
		}
	}
	return p.make(node{op: opBetween, not: negated, kids: []*node{left.node, low.node, high.node}}, left.at)
}

func (p *parser) in(left operand, negated bool) operand {
	if left.op != opProperty {
		p.fail(left.at, "left of IN is %s, want a property", left.describe())
	}
	n := node{op: opIn, not: negated, kids: []*node{left.node}, set: map[string]struct{}{}}
	p.want(tokenSymbol, "(")
	for {
		at := p.token.at
		n.set[p.literalText()] = struct{}{}
		p.count(at)
		if !p.take(tokenSymbol, ",") {
			break
		}
	}
	p.want(tokenSymbol, ")")
	return p.make(n, left.at)
}

func (p *parser) literalText() string {
	s := p.token.text
	if p.token.kind != tokenText {
		p.unexpected("a text in quotes")
		return ""
	}
	p.advance()
	return s
}

// nested parses within one more level.
func (p *parser) nested(part func() operand) operand {
	at := p.token.at
	if p.depth++; p.depth > MaxDepth {
		p.fail(at, "more than %d levels of parentheses and signs", MaxDepth)
		p.token = token{kind: tokenEnd, at: at}
		return operand{&node{op: opConstant}, at}
	}
	x := part()
	p.depth--
	return x
}

func (p *parser) unary() operand {
	at := p.token.at
	switch {
	case p.take(tokenSymbol, "+"):
		return operand{p.nested(p.unary).node, at}
	case p.take(tokenSymbol, "-"):
		return p.make(node{op: opNegate, kids: []*node{p.nested(p.unary).node}}, at)
	case p.take(tokenKeyword, "NOT"):
		return p.make(node{op: opNot, kids: []*node{p.condition(p.nested(p.unary))}}, at)
	}
	return p.primary()
}

// words are the literals that are words.
var words = map[string]value{"TRUE": boolean(true), "FALSE": boolean(false), "NULL": {}}

func (p *parser) primary() operand {
	t := p.token
	constant := func(v value) operand {
		p.advance()
		return p.make(node{op: opConstant, value: v}, t.at)
	}
	switch t.kind {
	case tokenText:
		return constant(value{kind: text, s: t.text})
	case tokenInteger:
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			p.fail(t.at, "%.40s does not fit into 64 bits; with a decimal point it is a decimal", t.text)
		}
		return constant(integer(n))
	case tokenDecimal:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil || f < math.SmallestNonzeroFloat64 {
			p.fail(t.at, "the decimal %.40s is not within 4.9e-324 and 1.8e308; for zero write 0", t.text)
		}
		return constant(value{kind: decimal, f: f})
	case tokenName:
		p.advance()
		i, ok := p.names[t.text]
		if !ok {
			i = len(p.names)
			p.names[t.text] = i
		}
		return p.make(node{op: opProperty, property: i}, t.at)
	case tokenKeyword:
		if v, ok := words[t.text]; ok {
			return constant(v)
		}
	case tokenSymbol:
		if p.take(tokenSymbol, "(") {
			x := p.nested(p.or)
			p.want(tokenSymbol, ")")
			return operand{x.node, t.at}
		}
	}
	p.unexpected("a property, a literal or (")
	return operand{&node{op: opConstant}, t.at}
}

// describe names an operand in a message.
func (x operand) describe() string {
	switch {
	case x.op == opConstant:
		return x.value.String()
	case x.op == opProperty:
		return "a property"
	case x.node.boolean():
		return "a condition"
	}
	return "a signed value"
}
