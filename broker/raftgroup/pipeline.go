package raftgroup

import (
	"sync"

	"github.com/hashicorp/raft"
)

// pipeline guards raft's pipelined replication against two faults.
//
// The wedge (issues 612, 666): raft's reader of answers stops at the first one
// that failed, while its sender may be waiting for room in the queue of requests
// in flight, which only moves when answers are read: the follower then gets no
// entries until the leader changes. Here the answers are always drained, whether
// raft reads them or not.
//
// The byte bound: see cutEntries.
type pipeline struct {
	inner    raft.AppendPipeline
	answered func(raft.AppendFuture)
	out      chan raft.AppendFuture
	closed   chan struct{}
	once     sync.Once
	done     sync.WaitGroup
	guard    guards
}

func newPipeline(inner raft.AppendPipeline, answered func(raft.AppendFuture), guard guards) *pipeline {
	p := &pipeline{
		inner:    inner,
		answered: answered,
		out:      make(chan raft.AppendFuture),
		closed:   make(chan struct{}),
		guard:    guard,
	}
	p.done.Go(p.drain)
	return p
}

func (p *pipeline) drain() {
	for {
		select {
		case future := <-p.inner.Consumer():
			p.answered(future)
			last := failed(future)
			select {
			case p.out <- future:
			case <-p.closed:
				return
			}
			if last {
				// raft reads no further. What is still to come answers requests
				// that raft will send again another way.
				if !p.guard.noDrain {
					p.discard()
				}
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *pipeline) discard() {
	for {
		select {
		case <-p.inner.Consumer():
		case <-p.closed:
			return
		}
	}
}

func failed(future raft.AppendFuture) bool {
	resp := future.Response()
	return !resp.Success || resp.Term > future.Request().Term
}

// AppendEntries implements raft.AppendPipeline.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if !p.guard.noByteBound {
		cutEntries(args)
	}
	return p.inner.AppendEntries(args, resp)
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.out }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	var err error
	p.once.Do(func() {
		err = p.inner.Close()
		close(p.closed)
		p.done.Wait()
	})
	return err
}
