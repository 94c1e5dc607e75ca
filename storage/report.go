package storage

import (
	"fmt"
)

// MaxProblems is the most problems that a report lists.
const MaxProblems = 1000

// Problem is something that is wrong with a store's files.
type Problem struct {
	File   string // below the store's directory
	Offset int64  // in the file; -1 if it is about all of it
	Text   string
}

func (p Problem) String() string {
	if p.Offset < 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s at %d: %s", p.File, p.Offset, p.Text)
}

// Problems are the first MaxProblems problems, and how many there are in all.
type Problems struct {
	List  []Problem
	Found int64
}

func (p *Problems) add(file string, off int64, format string, args ...any) {
	if p.Found++; len(p.List) < MaxProblems {
		p.List = append(p.List, Problem{file, off, fmt.Sprintf(format, args...)})
	}
}

// VerifyReport is what Verify found. The store is as it must be if Found is 0.
type VerifyReport struct {
	Problems

	Manifest *Manifest // what was checked against

	Blocks, QueueBlocks int64 // compared with their checksums
	Records             int64 // lengths, CRC of the body, own position
	Units               int64 // compared with their records
	Queues              int64
	IndexFiles          int
	IndexKeys           int64 // of records, found in the index

	// What this replica knows it lacks, so that it is no problem.
	MissingBytes int64 // of the CommitLog
	MissingUnits int64 // of queues
}
