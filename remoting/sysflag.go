package remoting

// Bits of a message's sysFlag.
const (
	SysFlagCompressed      int32 = 0x1 // body is compressed, see SysFlagCompressionType
	SysFlagMultiTags       int32 = 0x2
	SysFlagTransaction     int32 = 0xC // mask of the four values below
	SysFlagNotTransaction  int32 = 0x0
	SysFlagPrepared        int32 = 0x4
	SysFlagCommit          int32 = 0x8
	SysFlagRollback        int32 = 0xC
	SysFlagBornHostV6      int32 = 0x10 // these two describe the record, not the producer: AppendRecord sets them
	SysFlagStoreHostV6     int32 = 0x20
	SysFlagNeedUnwrap      int32 = 0x40
	SysFlagInnerBatch      int32 = 0x80
	SysFlagCompressionType int32 = 0x700 // mask: 0 and 0x300 zlib, 0x100 LZ4, 0x200 Zstandard
)

// Bits of a pull request's sysFlag.
const (
	PullCommitOffset int32 = 1  // CommitOffset is to be stored
	PullSuspend      int32 = 2  // may be held until a message arrives
	PullSubscription int32 = 4  // carries the subscription to filter by
	PullClassFilter  int32 = 8  // unused
	PullLite         int32 = 16 // lite pull consumer
)

// Bits of a topic's or queue's perm.
const (
	PermInherit  int32 = 1
	PermWrite    int32 = 2
	PermRead     int32 = 4
	PermPriority int32 = 8
)
