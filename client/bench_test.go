package client

const benchServerEnv = "RAFTMQ_BENCH_SERVER"

func benchServer(string) {}
