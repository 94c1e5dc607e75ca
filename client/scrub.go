package client

import (
	"context"
	"strconv"

	"github.com/raftmq/raftmq/remoting"
)

// RaftScrub makes the replica at an address check what is on its disk, reading so many bytes a second, 0 for what it is configured to.
// It returns when that has begun: RaftStatus has the outcome when its Scrub.Answered is at least what is Asked here.
func (a *Admin) RaftScrub(ctx context.Context, addr string, bytesPerSec int64) (*remoting.RaftScrub, error) {
	req := &remoting.Command{Code: remoting.RaftScrubRequest}
	if bytesPerSec > 0 {
		req.Ext.Add("bytesPerSec", strconv.FormatInt(bytesPerSec, 10))
	}
	resp, err := a.callAddr(ctx, addr, req)
	if err != nil {
		return nil, err
	}
	s := new(remoting.RaftScrub)
	return s, s.DecodeBody(resp.Body)
}

// RaftDigest makes the leader at an address have all replicas take their digests, at one index. RaftStatus has them: the leader's at once,
// the others' when they have applied as much.
func (a *Admin) RaftDigest(ctx context.Context, addr string) error {
	_, err := a.callAddr(ctx, addr, &remoting.Command{Code: remoting.RaftDigestRequest})
	return err
}
