package storage

import (
	"math/rand/v2"
	"testing"
)

func TestWriteReadResume(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	r := newRig(t, testOptions(nil))
	for range 50 {
		r.do(r.m.append(messages(rng, 1+rng.IntN(20), 4, 2000)...))
	}
	r.check()
	r.snap()
	r.check()
	for range 20 {
		r.do(r.m.append(messages(rng, 1+rng.IntN(20), 4, 2000)...))
	}
	r.check()
	r.kill()
	r.check()
	r.crash(1)
	r.check()
	r.do(r.m.trim(int64(len(r.m.log)) / 2))
	r.check()
	r.snap()
	r.check()
	r.crash(2)
	r.check()
	r.await(r.s.Complete)
	r.check()
}
