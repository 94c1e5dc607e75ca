package sql92

import "strings"

type op uint8

const (
	opConstant op = iota
	opProperty
	opNegate
	// From here on they are conditions: TRUE, FALSE, NULL or broken.
	opCast
	opNot
	opAnd
	opOr
	opEqual
	opOrder
	opBetween
	opIn
	opText
)

// node is an expression whose parts, kids, are nodes. No two nodes share a part,
// so an evaluation looks at each once at most.
type node struct {
	op       op
	not      bool // of opBetween, opIn, opText
	order    order
	property int
	value    value // of a constant; the text looked for of opText
	test     func(s, part string) bool
	set      map[string]struct{}
	kids     []*node
}

// boolean says whether a node is a condition. TRUE, FALSE and NULL are.
func (n *node) boolean() bool {
	return n.op >= opCast || n.op == opConstant && (n.value.kind == truth || n.value.kind == null)
}

// orders are the comparisons of numbers: for which results of compare they are
// TRUE.
var orders = map[string]order{"<": {-1, -1}, "<=": {-1, 0}, ">": {1, 1}, ">=": {0, 1}}

// order is a range of results of compare.
type order struct{ from, to int8 }

var (
	less, lessOrEqual       = orders["<"], orders["<="]
	greater, greaterOrEqual = orders[">"], orders[">="]
)

var textTests = map[string]func(s, part string) bool{
	"CONTAINS": strings.Contains, "STARTSWITH": strings.HasPrefix, "ENDSWITH": strings.HasSuffix,
}

// eval evaluates a node with the values of the properties.
func (n *node) eval(properties []value) value {
	switch n.op {
	case opConstant:
		return n.value
	case opProperty:
		return properties[n.property]
	case opAnd:
		return allOf(n.kids, properties)
	case opOr:
		return anyOf(n.kids, properties)
	}
	x := n.kids[0].eval(properties)
	if x.kind == broken {
		return x
	}
	switch n.op {
	case opNegate:
		return x.negate()
	case opCast:
		if x.kind == null {
			return x
		}
		return boolean(x.isTrue())
	case opNot:
		return x.not()
	case opEqual:
		return equal(x, n.kids[1].eval(properties))
	case opOrder:
		return n.order.test(x, n.kids[1], properties)
	case opBetween:
		return n.between(x, properties)
	case opIn:
		if x.kind != text {
			return value{}
		}
		_, in := n.set[x.s]
		return boolean(in != n.not)
	default: // opText; nothing contains the empty text, and nothing does not
		return boolean(x.kind == text && n.value.s != "" && n.test(x.s, n.value.s) != n.not)
	}
}

func (v value) not() value {
	if v.kind == truth {
		v.i = 1 - v.i
	}
	return v
}

// allOf is AND: what is behind a FALSE is not looked at.
func allOf(kids []*node, properties []value) value {
	result := boolean(true)
	for _, k := range kids {
		switch x := k.eval(properties); {
		case x.isFalse(), x.kind == broken:
			return x
		case x.kind == null:
			result = x
		}
	}
	return result
}

// anyOf is OR: what is behind a TRUE is not looked at.
func anyOf(kids []*node, properties []value) value {
	result := boolean(false)
	for _, k := range kids {
		switch x := k.eval(properties); {
		case x.isTrue(), x.kind == broken:
			return x
		case x.kind == null:
			result = x
		}
	}
	return result
}

// equal is =, and with NULL on its right also IS NULL.
func equal(a, b value) value {
	switch {
	case b.kind == broken:
		return b
	case a.kind == null && b.kind == null:
		return boolean(true)
	case a.kind == null:
		return a
	case b.kind == null:
		return boolean(false)
	}
	c, ok := compare(a, b)
	if !ok {
		return value{kind: broken}
	}
	return boolean(c == 0)
}

// test compares numbers.
func (o order) test(a value, right *node, properties []value) value {
	if a.kind == null {
		return a
	}
	b := right.eval(properties)
	if b.kind == null || b.kind == broken {
		return b
	}
	var ok bool
	if a.kind == text && b.kind == text { // two properties are compared as decimals
		if a, ok = read(a.s, decimal); !ok {
			return value{kind: broken}
		}
	}
	c, ok := compare(a, b)
	if !ok {
		return value{kind: broken}
	}
	return boolean(int(o.from) <= c && c <= int(o.to))
}

// between is x >= low AND x <= high, or x < low OR x > high.
func (n *node) between(x value, properties []value) value {
	first, second := greaterOrEqual, lessOrEqual
	if n.not {
		first, second = less, greater
	}
	decides := boolean(n.not) // FALSE of AND, TRUE of OR
	a := first.test(x, n.kids[1], properties)
	if a.kind == broken || a == decides {
		return a
	}
	b := second.test(x, n.kids[2], properties)
	if a.kind == null && b.kind != broken && b != decides {
		return a
	}
	return b
}
