package remoting

import "fmt"

// BatchMessage is one message in the body of a SendBatchMessage request. Topic, queue, born time and sysFlag are the header's.
type BatchMessage struct {
	Flag       int32
	Body       []byte
	Properties Properties
}

//	+------+---------+-------+------+---------+------+----------+------------+
//	| size | magic 0 | CRC 0 | flag | bodyLen | body | propsLen | properties |   repeated
//	+------+---------+-------+------+---------+------+----------+------------+
//	  i32    i32       i32     i32    i32              i16

const batchFixed = 22

// AppendBatch appends one message to the body of a batch.
func AppendBatch(dst []byte, m *BatchMessage) ([]byte, error) {
	if len(m.Properties) > MaxProperties {
		return dst, fmt.Errorf("%w: properties of %d bytes, the limit is %d", ErrTooLong, len(m.Properties), MaxProperties)
	}
	if len(m.Body) > 1<<31-1-batchFixed-MaxProperties {
		return dst, fmt.Errorf("%w: body of %d bytes", ErrTooLong, len(m.Body))
	}
	dst = appendUint32(dst, uint32(batchFixed+len(m.Body)+len(m.Properties)))
	dst = appendUint64(dst, 0)
	dst = appendUint32(dst, uint32(m.Flag))
	dst = append(appendUint32(dst, uint32(len(m.Body))), m.Body...)
	return append(appendUint16(dst, uint16(len(m.Properties))), m.Properties...), nil
}

// DecodeBatch cuts the body of a batch into its messages, at most limit, which lie in body. An empty body is an error.
func DecodeBatch(body []byte, limit int) ([]BatchMessage, error) {
	if len(body) == 0 {
		return nil, fmt.Errorf("%w: empty batch", ErrBody)
	}
	list := make([]BatchMessage, 0, 16)
	for at := 0; at < len(body); {
		if len(list) == limit {
			return nil, fmt.Errorf("%w: more than %d messages in a batch", ErrBody, limit)
		}
		m, size, err := decodeBatchMessage(body[at:])
		if err != nil {
			return nil, fmt.Errorf("%w: batch message %d at byte %d: %w", ErrBody, len(list), at, err)
		}
		list = append(list, m)
		at += size
	}
	return list, nil
}

func decodeBatchMessage(b []byte) (m BatchMessage, size int, err error) {
	if len(b) < batchFixed {
		return m, 0, fmt.Errorf("%d bytes, the shortest has %d", len(b), batchFixed)
	}
	size = int(int32(getUint32(b)))
	if size < batchFixed || size > len(b) {
		return m, 0, fmt.Errorf("size %d, %d bytes are there", size, len(b))
	}
	b = b[:size:size]
	m.Flag = int32(getUint32(b[12:]))
	body := int(int32(getUint32(b[16:])))
	if body < 0 || body > size-batchFixed {
		return m, 0, fmt.Errorf("body of %d bytes in a message of %d", body, size)
	}
	m.Body = b[20 : 20+body : 20+body]
	props := int(int16(getUint16(b[20+body:])))
	if props != size-batchFixed-body {
		return m, 0, fmt.Errorf("properties of %d bytes where %d are left", props, size-batchFixed-body)
	}
	m.Properties = Properties(b[22+body:])
	return m, size, nil
}
