// Package sql92 is the language of RocketMQ's SQL92 filters: a condition on the
// properties of a message. It means exactly what RocketMQ means by it, its
// oddities included, but for one thing: text behind a complete expression is
// refused, which RocketMQ passes over.
//
//	expression  = and { OR and }
//	and         = equality { AND equality }
//	equality    = comparison { ( "=" | "<>" ) comparison | IS [ NOT ] NULL }
//	comparison  = unary { ( ">" | ">=" | "<" | "<=" ) unary
//	                    | [ NOT ] BETWEEN unary AND unary
//	                    | [ NOT ] IN "(" text { "," text } ")"
//	                    | [ NOT ] ( CONTAINS | STARTSWITH | ENDSWITH ) text }
//	unary       = ( "+" | "-" | NOT ) unary | primary
//	primary     = text | integer | decimal | TRUE | FALSE | NULL | property | "(" expression ")"
//
//	text        = 'in quotes', a quote in it doubled
//	integer     = 0 | 1-9 { 0-9 } [ L ]          64 bits
//	decimal     = 1.5 | 1. | .5 | 1e3 ...        not 0.0
//	property    = A-Z a-z _ $, then digits too; case matters, that of keywords does not
//
// Comments are -- to the end of the line and between /* and */. As NOT binds more
// tightly than a comparison, NOT a = 1 is (NOT a) = 1: write NOT (a = 1).
//
// # Values
//
// A property is text. Beside a literal it is read as what the literal is: an
// integer of 32 bits if the literal fits into them, else of 64, a decimal, or a
// boolean (TRUE if it is "true" in any case, else FALSE). Text that can't be read
// so ends the evaluation: the message does not match, whatever OR, NOT or <> stand
// around it. So does "7.5" beside 7; beside 7.0 it is a number. Two properties are
// equal as texts, and greater or less as decimals.
//
// # Missing properties
//
// Logic has three values. A comparison with a missing property on its left is
// NULL, so neither it nor its negation matches. IS NULL is TRUE of it, IN and NOT
// IN are NULL, CONTAINS and NOT CONTAINS and their like are FALSE. With the missing
// property on the right of = the result is FALSE, so 1 <> a matches where a <> 1
// does not; and two missing properties are equal. Only TRUE matches.
package sql92
