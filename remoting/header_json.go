package remoting

import (
	"errors"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Bounds of a header. Real ones have about 20 fields and 8 members.
const (
	maxFields      = 1024
	maxHeaderItems = 4096 // members and elements at all depths
)

var errTooManyFields = errors.New("too many extension fields")

// {"code":105,"extFields":{"topic":"T"},"flag":0,"language":"JAVA","opaque":7,"remark":null,"serializeTypeCurrentRPC":"JSON","version":479}
//
// Members come in any order and may be missing. Values of extFields may be numbers and booleans (Node clients): their literal text is
// kept. Nulls count as absent. serializeTypeCurrentRPC is ignored, the frame says it. Unknown members are ignored.

// decodeJSON works in one pass and allocates once: strings are unescaped in place, and the whole text becomes one Go string of which
// remark, keys and values are parts.
func (d *headerDecoder) decodeJSON(cmd *Command, b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("JSON text is not valid UTF-8")
	}
	d.scan = scanner{b: b, left: maxHeaderItems, owns: true}
	d.spans = d.spans[:0]
	s := &d.scan
	var remark span
	if s.peek() != '{' {
		s.fail("expected '{'")
	} else {
		s.open('{')
	}
	for first := true; s.more('}', first); first = false {
		name := s.quoted()
		s.expect(':')
		switch string(name) {
		case "code":
			cmd.Code = int32(s.int(32))
		case "language":
			t, _ := s.text()
			cmd.Language = parseLanguage(t)
		case "version":
			cmd.Version = int32(s.int(32))
		case "opaque":
			cmd.Opaque = int32(s.int(32))
		case "flag":
			cmd.Flag = int32(s.int(32))
		case "remark":
			if t, ok := s.text(); ok {
				remark = s.span(t)
			}
		case "extFields":
			if err := d.decodeExt(s); err != nil {
				return err
			}
		default:
			s.skip()
		}
	}
	if err := s.end(); err != nil {
		return err
	}
	text := string(b)
	cmd.Remark = text[remark.from:remark.to]
	cmd.Ext = slices.Grow(cmd.Ext, len(d.spans)/2)[:len(d.spans)/2]
	for i := range cmd.Ext {
		k, v := d.spans[2*i], d.spans[2*i+1]
		cmd.Ext[i] = Field{text[k.from:k.to], text[v.from:v.to]}
	}
	return nil
}

func (d *headerDecoder) decodeExt(s *scanner) error {
	if !s.open('{') {
		return nil
	}
	for first := true; s.more('}', first); first = false {
		key := s.span(s.quoted())
		s.expect(':')
		if s.err != nil {
			return s.err
		}
		value, ok := s.text()
		if !ok {
			continue
		}
		if len(d.spans) >= 2*maxFields {
			return errTooManyFields
		}
		d.spans = append(d.spans, key, s.span(value))
	}
	return nil
}

// span returns where in s.b the part t of it lies.
func (s *scanner) span(t []byte) span {
	if len(t) == 0 {
		return span{}
	}
	from := cap(s.b) - cap(t)
	return span{from, from + len(t)}
}

// appendJSON writes members and typed fields in alphabetical order, as fastjson does. extFields is always there, as Java clients read it
// without looking; values are always strings, as Go clients insist.
func appendJSON(e *FieldEncoder, cmd *Command) {
	e.dst = strconv.AppendInt(append(e.dst, `{"code":`...), int64(cmd.Code), 10)
	e.dst = append(e.dst, `,"extFields":{`...)
	appendFields(e, cmd)
	e.dst = strconv.AppendInt(append(e.dst, `},"flag":`...), int64(cmd.Flag), 10)
	e.dst = append(append(e.dst, `,"language":"`...), cmd.Language.String()...)
	e.dst = strconv.AppendInt(append(e.dst, `","opaque":`...), int64(cmd.Opaque), 10)
	if cmd.Remark != "" {
		e.dst = appendJSONString(append(e.dst, `,"remark":`...), cmd.Remark)
	}
	e.dst = append(strconv.AppendInt(append(e.dst, `,"version":`...), int64(cmd.Version), 10), '}')
}

func appendFields(e *FieldEncoder, cmd *Command) {
	if cmd.Header != nil {
		cmd.Header.AppendFields(e)
	}
	for i := range cmd.Ext {
		e.String(cmd.Ext[i].Key, cmd.Ext[i].Value)
	}
}
