package remoting

import (
	"fmt"
	"strconv"
	"strings"
)

// Field is one extension field of a header. On the wire every value is text.
type Field struct {
	Key, Value string
}

// Fields are the extension fields of a header in the order they arrived. Where a key occurs twice, the later one counts.
// Fields are few (about 15), so a lookup walks them.
type Fields []Field

// Lookup returns the value of key, and whether there is one.
func (f Fields) Lookup(key string) (string, bool) {
	for i := len(f) - 1; i >= 0; i-- {
		if f[i].Key == key {
			return f[i].Value, true
		}
	}
	return "", false
}

// Get returns the value of key, "" if there is none.
func (f Fields) Get(key string) string {
	v, _ := f.Lookup(key)
	return v
}

// Add appends a field without looking for an older one of that name.
func (f *Fields) Add(key, value string) { *f = append(*f, Field{key, value}) }

// Reader returns a typed reader of the fields.
func (f Fields) Reader() FieldReader { return FieldReader{fields: f} }

// FieldReader reads typed values out of Fields and remembers the first error, so that a decoder checks once, at its end.
// An empty value counts as absent: the binary header cannot tell the two apart.
type FieldReader struct {
	fields Fields
	err    error
}

// Err returns the first error, which wraps ErrField and names the field.
func (r *FieldReader) Err() error { return r.err }

// String returns the required field key.
func (r *FieldReader) String(key string) string {
	v := r.fields.Get(key)
	if v == "" {
		r.missing(key)
	}
	return v
}

// StringOr returns the optional field key, def if it is absent.
func (r *FieldReader) StringOr(key, def string) string {
	if v := r.fields.Get(key); v != "" {
		return v
	}
	return def
}

// Int32 returns the required 32-bit field key.
func (r *FieldReader) Int32(key string) int32 { return int32(r.int(key, 32, true, 0)) }

// Int32Or returns the optional 32-bit field key, def if it is absent.
func (r *FieldReader) Int32Or(key string, def int32) int32 {
	return int32(r.int(key, 32, false, int64(def)))
}

// Int64 returns the required 64-bit field key.
func (r *FieldReader) Int64(key string) int64 { return r.int(key, 64, true, 0) }

// Int64Or returns the optional 64-bit field key, def if it is absent.
func (r *FieldReader) Int64Or(key string, def int64) int64 { return r.int(key, 64, false, def) }

// Bool returns the required field key: true is "true" in any case, everything else is false, as Java reads it.
func (r *FieldReader) Bool(key string) bool { return strings.EqualFold(r.String(key), "true") }

// BoolOr returns the optional field key, def if it is absent.
func (r *FieldReader) BoolOr(key string, def bool) bool {
	v := r.fields.Get(key)
	if v == "" {
		return def
	}
	return strings.EqualFold(v, "true")
}

func (r *FieldReader) int(key string, bits int, required bool, def int64) int64 {
	v := r.fields.Get(key)
	if v == "" {
		if required {
			r.missing(key)
		}
		return def
	}
	return r.parse(key, v, bits)
}

// parse reads the decimal number v of field key; decoders that walk the fields themselves call it.
func (r *FieldReader) parse(key, v string, bits int) int64 {
	n, err := strconv.ParseInt(v, 10, bits)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%w: %s is %.64q, want a %d-bit integer", ErrField, key, v, bits)
	}
	return n
}

func (r *FieldReader) missing(key string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s is missing", ErrField, key)
	}
}

// FieldEncoder writes extension fields into a header being encoded, JSON or binary, in the order of the calls.
type FieldEncoder struct {
	dst       []byte
	binary    bool
	more      bool // JSON: a field is already there
	oversized bool // binary: a key longer than its length word can say
}

// String writes one field. A binary header does not carry empty values.
func (e *FieldEncoder) String(key, value string) {
	if e.binary {
		if value == "" || key == "" {
			return
		}
		e.key(key)
		e.dst = append(appendUint32(e.dst, uint32(len(value))), value...)
		return
	}
	e.key(key)
	e.dst = appendJSONString(e.dst, value)
}

// Optional writes one field unless value is empty.
func (e *FieldEncoder) Optional(key, value string) {
	if value != "" {
		e.String(key, value)
	}
}

// Int writes a decimal number.
func (e *FieldEncoder) Int(key string, value int64) {
	e.key(key)
	if !e.binary {
		e.dst = append(e.dst, '"')
		e.dst = append(strconv.AppendInt(e.dst, value, 10), '"')
		return
	}
	at := len(e.dst)
	e.dst = strconv.AppendInt(append(e.dst, 0, 0, 0, 0), value, 10)
	putUint32(e.dst[at:], uint32(len(e.dst)-at-4))
}

// Bool writes "true" or "false".
func (e *FieldEncoder) Bool(key string, value bool) {
	if value {
		e.String(key, "true")
	} else {
		e.String(key, "false")
	}
}

func (e *FieldEncoder) key(key string) {
	if e.binary {
		if len(key) > 32767 {
			e.oversized = true
			key = key[:32767]
		}
		e.dst = append(append(e.dst, byte(len(key)>>8), byte(len(key))), key...)
		return
	}
	if e.more {
		e.dst = append(e.dst, ',')
	}
	e.more = true
	e.dst = append(appendJSONString(e.dst, key), ':')
}
