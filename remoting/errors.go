package remoting

import "errors"

// What can be wrong with bytes from a peer, and with a call to one. Returned errors wrap these and say what and where.
var (
	// ErrFrame: the length words of a frame make no sense. The stream cannot be resynchronised.
	ErrFrame = errors.New("malformed frame")
	// ErrFrameTooLarge: a frame, announced by a peer or about to be sent, is longer than the limit.
	ErrFrameTooLarge = errors.New("frame over the limit")
	// ErrHeader: a header is not JSON or binary as the protocol has it, or goes beyond a bound.
	ErrHeader = errors.New("malformed header")
	// ErrField: an extension field is missing or is not what its name promises.
	ErrField = errors.New("invalid header field")
	// ErrBody: a request or response body cannot be decoded.
	ErrBody = errors.New("malformed body")
	// ErrRecord: a message record's lengths or magic do not add up.
	ErrRecord = errors.New("malformed message record")
	// ErrName: a topic or group name that RocketMQ does not allow.
	ErrName = errors.New("invalid name")
	// ErrTooLong: a value is longer than its place in the encoding can say.
	ErrTooLong = errors.New("value too long")

	// ErrNotSent: no byte of the request reached the socket. It is safe to send it elsewhere.
	ErrNotSent = errors.New("request not sent")
	// ErrLimbo: the request was, or may have been, written, and no answer came. The peer may have acted on it.
	ErrLimbo = errors.New("request sent, outcome unknown")
	// ErrFull: more than MaxPending bytes wait to be written to a peer that does not read.
	ErrFull = errors.New("too many bytes wait for the peer")
	// ErrClosed: the connection or server was closed on this side.
	ErrClosed = errors.New("connection closed")
	// ErrIdle: nothing was read or written for IdleTimeout.
	ErrIdle = errors.New("connection idle for too long")
	// ErrSlowFrame: a frame was begun and not completed in time.
	ErrSlowFrame = errors.New("frame not completed in time")
	// ErrSlowPeer: the peer took no byte for WriteTimeout.
	ErrSlowPeer = errors.New("peer does not read")
	// ErrTimeout: no answer within the time given to CallAsync.
	ErrTimeout = errors.New("no answer in time")
)
