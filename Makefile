# Two commands do everything on a fresh machine: make demo, make test.
GO          ?= go
INPUT       ?=
LINES       ?= 600000
FUZZTIME    ?= 20s
ARGS        ?=
BENCHTIME   ?= 5s
DURATION    ?= 2m
SEED        ?= $(RAFTMQ_SEED)
SEEDS       ?= 200
CPUS        ?= 1
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.PHONY: all build demo test race conformance interop chaos failover catchup sim mutants bench fuzz lint clean

all: build

# A static binary, bin/raftmq.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/raftmq ./cmd/raftmq

# Three brokers carry a file's lines from a producer to a consumer while their
# leader is killed with -9. INPUT=path sends another file, LINES=0 all lines.
demo: build
	$(GO) run ./cmd/demo -raftmq bin/raftmq -lines $(LINES) -input "$(INPUT)"

test:
	$(GO) vet ./...
	$(GO) test ./...

race:
	$(GO) test -race ./...

# Every statement of RocketMQ's semantics, and whether the tests named after it pass.
conformance:
	$(GO) run ./cmd/conformance

# The official Java clients and ali-ons, each in quiet and while leaders are
# killed. Needs a JDK with Maven, Node with npm; what is missing is skipped, by name.
interop:
	RAFTMQ_INTEROP=1 $(GO) test ./cmd/raftmq -count=1 -timeout 60m -run '^TestInterop$$' -v

# Real processes killed, paused, cut off and denied their disks at random for DURATION,
# under traffic of all kinds, and everything compared. Cutting needs root. The seed
# is printed; SEED repeats its faults.
chaos:
	RAFTMQ_CHAOS=$(DURATION) RAFTMQ_SEED=$(SEED) $(GO) test ./cmd/raftmq -count=1 -timeout 0 -run '^TestChaos$$' -v

# For how long nothing is acknowledged when a leader is killed, cut off, handed over
# or restarted, under load; ARGS="-kinds kill -kills 20" is shorter, ARGS="-java 5.3.3
# -groups 3" sends with the official client. Partitions need root.
failover: build
	$(GO) run ./cmd/failover -raftmq bin/raftmq $(ARGS)

# What sends cost while a replica that lost its disk fetches SIZE bytes.
catchup: SIZE ?= 4294967296
catchup:
	RAFTMQ_CATCHUP=$(SIZE) $(GO) test ./cmd/raftmq -count=1 -timeout 0 -run '^TestMeasureCatchUp$$' -v

# Clusters in memory and fake time, against faults drawn from SEEDS seeds. A seed
# that fails is printed: make sim SEED=it SEEDS=1 runs it again. CPUS=2 is faster,
# and a seed replays less well.
sim:
	RAFTMQ_SEED=$(SEED) RAFTMQ_RUNS=$(SEEDS) $(GO) test ./broker/raftgroup -count=1 -timeout 0 -cpu $(CPUS) -run '^TestSim$$'

# Takes one safeguard after another away and shows which tests notice.
mutants:
	$(GO) run ./cmd/mutants $(ARGS)

# Our raft log beside raft-boltdb and raft-wal, then a whole cluster.
bench: build
	cd storage/raftlog/compare && $(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME)
	testdata/scripts/bench.sh bin/raftmq

# Every fuzz target for FUZZTIME each.
fuzz:
	GO=$(GO) testdata/scripts/fuzz.sh $(FUZZTIME)

lint:
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

clean:
	rm -rf bin data
