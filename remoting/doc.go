// Package remoting speaks the RocketMQ remoting protocol: frames, headers, message records, codes, and the connection that carries them.
//
// The layers, from the bytes up:
//
//   - Command is one request or response. AppendFrame and DecodeFrame turn it into bytes and back, with a JSON or a binary header.
//   - One file per request holds its typed header and body: XxxRequest and XxxResponse types with Decode (from a Command) and AppendFields
//     or AppendBody (to a frame). Decoders are tolerant where real clients need it, encoders are strict.
//   - Record, RecordView, Properties and the id functions are the encoding of messages, as stored by a broker and as pulled by a client.
//   - Conn is a connection, the same for both sides: requests and responses in both directions, multiplexed, bounded, coalesced.
//     Server accepts connections.
//
// All integers are big endian and signed. Nothing in this package panics on what a peer sends: a malformed frame is an error that wraps
// ErrFrame, ErrHeader, ErrField, ErrBody or ErrRecord, and costs the sender its own connection only.
package remoting
