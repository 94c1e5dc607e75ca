// Package storage keeps the messages of one replica: the CommitLog, the consume
// queues that point into it, and the key index. It knows records and queues, not
// what topics mean; what goes where is decided by the replicated state machine,
// which is the same on all replicas, so their files are the same byte for byte.
//
// # Files
//
//	<dir>/lock                          held by the process that has the store open
//	<dir>/format                        whose store it is, segment size, version
//	<dir>/checkpoint.0, checkpoint.1    what is synced: a manifest, and in what the
//	                                    files differ from it; the newer good one counts,
//	                                    and what is no good is damaged: it is written as
//	                                    checkpoint.tmp first
//	<dir>/commitlog/<position>          segments of one size, allocated in full; records
//	                                    end to end, a blank fills what is left
//	<dir>/commitlog-sums/<position>     a CRC-32C for each 4 KiB block of that segment
//	<dir>/consumequeue/<topic>@<incarnation>/<queue>/<byte>
//	                                    300,000 units of 20 bytes, grows as it is written
//	<dir>/consumequeue/.../<byte>.sums  a CRC-32C for each 204 units of that file, once
//	                                    there are so many
//	<dir>/index/<number>.run            keys, see Index
//
// Numbers in names have 20 digits. The layouts stand above the code that writes
// them: record.go, batch.go (units), sums.go, queue.go, manifest.go,
// checkpoint.go, format.go, index_format.go.
//
// # Writing
//
// The raft log is the only thing that is synced before a message is acknowledged.
// Apply then calls Write, which syncs nothing. A snapshot of the state machine
// holds a Manifest (Pin) and is not valid before Sync has returned: only then may
// the raft log forget the entries before it. After a restart the store begins at
// the newest snapshot's manifest (Resume), and the entries behind it are applied
// again: the same bytes are written to the same places.
//
// # Why nothing is lost in a crash
//
// Take the newest snapshot that the raft log's owner has, with its manifest M. By
// C1 and C2 below all that M names is synced or listed as missing, whatever was
// written since and however much of it a crash has torn: it was either written
// behind M's positions, or it was the same bytes again, or it was listed. What is
// behind M's positions is not believed; the raft log has it, synced, because it
// forgets only what a synced manifest covers. What is listed as missing, a peer
// has: a range gets on the list when a manifest came from a peer, or when damage
// was found.
//
// The kernel writes pages back in any order, so of several files any subset may
// have reached the disk. Nothing depends on an order but: data before the
// checkpoint that calls it synced, and the checkpoint before files are removed
// that an older one names. Both are syncs that are waited for. A failed one
// poisons the store for good (S4), as after it a later success means nothing.
//
// # Invariants
//
//	C1 A checkpoint is written when a sync of everything it calls synced has
//	   returned. The one before stays until then.
//	C2 Bytes that a synced manifest names are written again only with the same
//	   bytes, or while the checkpoint lists them as missing.
//	C3 Files are removed only when the checkpoint knows that they are not needed:
//	   the floor of a trim, the fronts of queues, the doomed topics. (A disk that
//	   is too full to write it is the exception, see Store.letGo: it costs the
//	   replay a look in vain.)
//	S1 Readers see a prefix of the log that is whole: bytes before units, units
//	   before OnAppend.
//	S2 What Read and Units return has passed a checksum that leads back to a
//	   manifest or to the process that wrote it. View alone returns bytes
//	   unchecked, of what this process has written lately.
//	S3 What fails its checksum is not served but fetched or rebuilt: log blocks
//	   from a peer (Missing, Fill), block sums from the data, queue units and index
//	   keys from the log.
//	S4 After a failed write of apply, or a failed sync, nothing is written any more.
//	   Want of room is not a failure: Room says so before it matters, and what
//	   cannot be written yet waits in memory. A failed write of a repair leaves the
//	   range missing.
//	S5 A file that is mapped is never shortened, and removed when nobody reads it.
//	S6 Our code never touches a mapping.
//	M, Q and I are on Manifest, Queue and Index.
//
// # Goroutines
//
// One goroutine applies; any may read. Beside them run three: the allocator makes
// the next segment, the housekeeper flushes queues, starts write-back and removes
// files, the repairer finds, rebuilds and syncs what is missing. Whoever works on
// the files beside the writer holds Store.maintain.
package storage
