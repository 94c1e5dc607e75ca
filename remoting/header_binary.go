package remoting

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

//	 0      2      3      5        9      13
//	+------+------+------+--------+------+-----------+--------+--------+-----------------------------------------+
//	| code | lang | vers | opaque | flag | remarkLen | remark | extLen | { keyLen i16 | key | valLen i32 | val }* |
//	+------+------+------+--------+------+-----------+--------+--------+-----------------------------------------+
//	 i16    i8     i16    i32      i32    i32                  i32
//
// A length of zero is a null: fields with an empty key or value are not there.

const binaryFixed = 21 // all of it but remark and fields

func (d *headerDecoder) decodeBinary(cmd *Command, b []byte) error {
	if len(b) < binaryFixed {
		return fmt.Errorf("binary header of %d bytes", len(b))
	}
	cmd.Flag = int32(getUint32(b[9:]))
	cmd.Code = codeFromBinary(getUint16(b), cmd.IsResponse())
	if cmd.Language = Language(b[2]); int(b[2]) >= len(languageNames) {
		cmd.Language = LanguageOther
	}
	cmd.Version = int32(int16(getUint16(b[3:])))
	cmd.Opaque = int32(getUint32(b[5:]))
	text := string(b)
	at := 13
	remark, err := binaryLength(b, &at, "remark")
	if err != nil {
		return err
	}
	cmd.Remark = text[at : at+remark]
	valid := utf8.ValidString(cmd.Remark)
	at += remark
	ext, err := binaryLength(b, &at, "extension fields")
	if err != nil {
		return err
	}
	if at+ext != len(b) {
		return fmt.Errorf("%d bytes follow the extension fields", len(b)-at-ext)
	}
	for at < len(b) {
		if len(b)-at < 2 {
			return errors.New("extension field cut off")
		}
		klen := int(int16(getUint16(b[at:])))
		at += 2
		if klen < 0 || klen > len(b)-at {
			return fmt.Errorf("key of %d bytes, %d are left", klen, len(b)-at)
		}
		key := text[at : at+klen]
		at += klen
		vlen, err := binaryLength(b, &at, "value")
		if err != nil {
			return err
		}
		if klen > 0 && vlen > 0 {
			if len(cmd.Ext) >= maxFields {
				return errTooManyFields
			}
			value := text[at : at+vlen]
			valid = valid && utf8.ValidString(key) && utf8.ValidString(value)
			cmd.Ext = append(cmd.Ext, Field{key, value})
		}
		at += vlen
	}
	if !valid {
		return errors.New("text is not valid UTF-8")
	}
	return nil
}

// binaryLength reads a 32-bit length and checks it against what is left.
func binaryLength(b []byte, at *int, what string) (int, error) {
	if len(b)-*at < 4 {
		return 0, fmt.Errorf("%s cut off", what)
	}
	n := int(int32(getUint32(b[*at:])))
	*at += 4
	if n < 0 || n > len(b)-*at {
		return 0, fmt.Errorf("%s of %d bytes, %d are left", what, n, len(b)-*at)
	}
	return n, nil
}

func appendBinary(e *FieldEncoder, cmd *Command) {
	e.dst = append(appendUint16(e.dst, uint16(cmd.Code)), byte(cmd.Language))
	e.dst = appendUint16(e.dst, uint16(cmd.Version))
	e.dst = appendUint32(appendUint32(e.dst, uint32(cmd.Opaque)), uint32(cmd.Flag))
	e.dst = append(appendUint32(e.dst, uint32(len(cmd.Remark))), cmd.Remark...)
	at := len(e.dst)
	e.dst = append(e.dst, 0, 0, 0, 0)
	appendFields(e, cmd)
	putUint32(e.dst[at:], uint32(len(e.dst)-at-4))
}

// codeFromBinary undoes the truncation to 16 bits. Request codes above 32767 lie in 200050 to 200151, and no request code proper has
// their low 16 bits; response codes are signed.
func codeFromBinary(low uint16, response bool) int32 {
	if !response && low >= uint16(PopMessage&0xffff) && low <= uint16(BatchAckMessage&0xffff) {
		return int32(low) | PopMessage&^0xffff
	}
	return int32(int16(low))
}
