#!/bin/sh
# Measures a cluster of three processes on this machine, end to end: SYNC_FLUSH,
# three replicas, 1 KiB messages, and the CPU time of brokers and client together.
# usage: bench.sh RAFTMQ-BINARY
set -eu
raftmq=$1
dir=$(mktemp -d "${TMPDIR:-/tmp}/raftmq-bench.XXXXXX")
"$raftmq" dev --nodes 3 --groups 1 --dir "$dir/cluster" >"$dir/dev.out" 2>&1 &
dev=$!
trap 'kill -INT $dev 2>/dev/null; wait $dev || true; rm -rf "$dir"' EXIT INT TERM
tries=0
until grep -q "^export RAFTMQ_NAMESRV" "$dir/dev.out"; do
	tries=$((tries + 1))
	if [ $tries -gt 300 ] || ! kill -0 $dev 2>/dev/null; then
		cat "$dir/dev.out" >&2
		exit 1
	fi
	sleep 0.2
done
eval "$(grep "^export RAFTMQ_NAMESRV" "$dir/dev.out")"
echo "machine: $(nproc) CPUs, $(uname -sr), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)"
"$raftmq" bench produce --cluster "$dir/cluster/cluster.json" --senders "${SENDERS:-1,64,512}" --duration "${DURATION:-10s}"
"$raftmq" bench consume --cluster "$dir/cluster/cluster.json" --duration "${DURATION:-10s}"
