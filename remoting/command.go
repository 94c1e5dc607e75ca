package remoting

import "slices"

// Serialize is the encoding of a frame's header.
type Serialize uint8

// The header encodings. A server answers in the encoding of the request.
const (
	JSON   Serialize = 0
	Binary Serialize = 1 // RocketMQ's own
)

// Flag bits of a header.
const (
	FlagResponse int32 = 1
	FlagOneway   int32 = 2 // the sender wants no response
)

// Header is a typed request or response header, able to write its extension fields.
type Header interface {
	// AppendFields writes the fields. It may run under a connection's lock, so it must not block.
	AppendFields(e *FieldEncoder)
}

// Command is one request or response.
//
// Who decoded a Command owns it, with these exceptions: one that a Handler gets is valid until the Handler returns, and a Body may lie in a
// read buffer that is reused after that; Clone gives one that lasts. Strings (Remark, Ext) may always be kept, but each keeps the text of
// its whole header in memory.
type Command struct {
	Code      int32 // request code, or response code if Flag has FlagResponse
	Opaque    int32 // correlation id, chosen by the requester, echoed in the response
	Flag      int32
	Version   int32 // sender's release, see Version
	Language  Language
	Serialize Serialize
	Remark    string // error text
	Ext       Fields
	Body      []byte

	// Header, if set, is encoded along with Ext. Decoding never sets it.
	Header Header

	responder Responder
}

// IsResponse tells a response from a request.
func (c *Command) IsResponse() bool { return c.Flag&FlagResponse != 0 }

// IsOneway says that the requester wants no response. Go and Node clients do not set this even where they ignore the response.
func (c *Command) IsOneway() bool { return c.Flag&FlagOneway != 0 }

// Clone returns a deep copy that stays valid when the Handler that got c has returned. Its Responder is that of c.
func (c *Command) Clone() *Command {
	d := *c
	d.Ext = slices.Clone(c.Ext)
	d.Body = slices.Clone(c.Body)
	return &d
}

// Err returns nil if c is a response with code Success, else a *Error carrying its code and remark.
func (c *Command) Err() error {
	if c.Code == Success {
		return nil
	}
	return &Error{Code: c.Code, Remark: c.Remark}
}
