package remoting

import "encoding/binary"

func appendUint16(b []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(b, v) }
func appendUint32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func appendUint64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }
func putUint32(b []byte, v uint32)           { binary.BigEndian.PutUint32(b, v) }
func putUint64(b []byte, v uint64)           { binary.BigEndian.PutUint64(b, v) }
func getUint16(b []byte) uint16              { return binary.BigEndian.Uint16(b) }
func getUint32(b []byte) uint32              { return binary.BigEndian.Uint32(b) }
func getUint64(b []byte) uint64              { return binary.BigEndian.Uint64(b) }
