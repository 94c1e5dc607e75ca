// Package raftlog keeps what hashicorp/raft has to keep: the log (Log), term and
// vote (Stable) and snapshots (Snapshots).
//
// # The log's files
//
// A log is a directory of segments, files of one size, zero-filled before they
// are used and used again when the log no longer needs them: a sync of entries
// changes no metadata, and costs one trip to the disk. Entries are frames, one
// behind the other; a batch is one write, or a few if it is large, and one sync, in
// one segment. The next
// segment is made, or an old one made ready, ahead of need. So old whole frames
// lie behind the log's end, and everything below is about telling them, and
// pieces of batches that never were acknowledged, from the log.
//
//	 segment 7                    8                            9, the tail
//	|hdr|f f f f f f f f f f|.|  |hdr|f f f f f f f f f f f|  |hdr|f f f|o o o ... |
//	     ^ start                                                        ^ end
//	    |<------------------ the log ---------------------------------->|
//	    |<------------------ synced ------------------------->|<- this ->|
//	                                                           batch
//
//	hdr  two copies of: which segment of which log this is, its epoch, its latest
//	     truncation, and the state of the whole log as of some generation
//	f    a frame of the log
//	o    frames of an earlier use or of a truncated end
//
// # Why a crash loses nothing
//
// A place (segment, offset) is synced when a sync that began after it was
// written has returned without an error.
//
//	I1  A batch is acknowledged after it is synced (SyncFlush).
//	I2  A frame carries a place up to which everything was synced before the
//	    frame was written. A header does, too.
//	I3  A frame is written only when the batch before it is synced (SyncFlush),
//	    or is at least in the same segment (AsyncFlush): a segment's first frame
//	    is written when all segments before it are synced, and says so.
//	I4  Every segment taken into use and every truncation has an epoch of its
//	    own, higher than all before. Frames carry the epoch they were written in:
//	    along the log it never falls. A frame behind a truncation's place with a
//	    lower epoch than the truncation's is dead, and so is a segment with a
//	    lower epoch than one before it.
//	I5  A frame carries its predecessor's checksum, its index and its place, all
//	    under its own checksum, which is seeded with the log's random id.
//	I6  A header changes by writing and syncing one slot, then the other: one is
//	    whole at any time, and the one with the higher generation is at least as
//	    new as any change that was acknowledged. Damage to one slot alone loses
//	    nothing.
//	I7  A truncation is in the header, synced, before anything is written at its
//	    place; a new start is, before a segment in front of it is used again.
//	I8  A segment is used only when the header of the one in use says, synced,
//	    that it exists. So none can go missing unnoticed.
//
// Opening follows frames from the start that the newest header gives, as long as
// each is whole, in its place, follows the one before it by index and checksum,
// and has an epoch not below it (I4, I5). Where that ends, at place P, either
//
//   - no header and no whole later frame of P's epoch or above says that more
//     than P was synced. By I2 and I3 nothing behind P was acknowledged: what
//     stands there is the batch that was under way, of which any pages may have
//     reached the disk, or old. P is the end; it is a torn tail. Or
//   - one of them says so. Then what stood at P was synced and has changed since.
//     That is ErrCorrupt. Nothing is cut off or served, and nothing was changed.
//
// No old frame is taken for a later one: its place or its epoch is wrong (I4,
// I5, I7).
//
// Then every frame from the last known synced place to P is written again and
// synced, because reading it back proves nothing about the disk: after a kill,
// or a failed sync, the page cache is ahead of it. And P is made a truncation
// (I4): pieces of the batch under way that stand behind P are dead for ever,
// also if entries that are written later should end exactly where one begins.
//
// After a write or a sync has failed, nobody knows what the disk holds, and a
// later sync that succeeds proves nothing. The log is poisoned: it answers reads
// of what was acknowledged before and refuses every change until it is opened
// again, which finds out. Syncs of one log are made one at a time for the same
// reason: the kernel tells only one of two concurrent callers.
//
// # Limits
//
// Damage to the last batch before a crash looks like a torn tail and is cut off:
// no later frame vouches for it. After a clean Close, or once the log has been
// opened again, a header does. If the segment in use is replaced by an older
// copy of itself, it shows only if a header elsewhere knows more. The checksums
// are 32 bits: they find accidents, they do not stop somebody who may write to
// the directory.
//
// # Term, vote and snapshots
//
// See Stable and Snapshots for what they promise, and Reconcile and CheckTerm
// for what must hold between the three before raft starts:
//
//	log, err := raftlog.Open(...)
//	stable, err := raftlog.OpenStable(...)
//	snapshots, err := raftlog.OpenSnapshots(...)
//	snapshots.VerifyNewest()
//	raftlog.CheckTerm(stable, log, snapshots)
//	raftlog.Reconcile(log, snapshots)
//	raft.NewRaft(...)
package raftlog
