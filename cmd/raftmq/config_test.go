package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oneNode is a configuration whose ports nobody listens on: it is never valid
// where these tests use it.
const oneNode = `nodes:
  n1: {peer: "127.0.0.1:7", namesrv: "127.0.0.1:8"}
groups:
  - brokerName: broker-a
    replicas: {n1: "127.0.0.1:9"}
`

// Row 41: a configuration that is wrong keeps the node from starting. The message
// names the key, or the file, and what to write.
func TestBadConfigurations(t *testing.T) {
	replace := func(old, by string) string {
		if !strings.Contains(oneNode, old) {
			t.Fatalf("%q is not in the configuration", old)
		}
		return strings.Replace(oneNode, old, by, 1)
	}
	for name, c := range map[string]struct {
		yaml string   // "": oneNode
		args []string // beside --config
		want []string
	}{
		"no yaml":              {yaml: "nodes: [", want: []string{"config.yaml", "line 1"}},
		"unknown key":          {yaml: oneNode + "flushDiscType: x\n", want: []string{"config.yaml", "flushDiscType", "line 6", "CONFIGURATION.md"}},
		"unknown key of node":  {yaml: replace("namesrv", "nameserver"), want: []string{"config.yaml", "nameserver", "line 2"}},
		"node id twice":        {yaml: replace("groups:", "  n1: {peer: \"127.0.0.1:3\"}\ngroups:"), want: []string{"config.yaml", `"n1" already defined`, "line 3"}},
		"second document":      {yaml: oneNode + "---\nnodes: {}\n", want: []string{"config.yaml", "one file has one"}},
		"empty":                {yaml: "\n", want: []string{"nodeId", `"n1" is not among nodes`}},
		"no node id":           {args: []string{}, want: []string{"nodeId", "[n1]"}},
		"another node id":      {args: []string{"--node", "n9"}, want: []string{"nodeId", `"n9" is not among nodes`, "[n1]"}},
		"no groups":            {yaml: oneNode[:strings.Index(oneNode, "groups")], want: []string{"groups"}},
		"no replicas":          {yaml: replace(`{n1: "127.0.0.1:9"}`, "{}"), want: []string{"groups[0].replicas"}},
		"replica of no node":   {yaml: replace(`{n1: "127.0.0.1:9"}`, `{n2: "127.0.0.1:9"}`), want: []string{"groups[0].replicas", `"n2" is not among nodes`}},
		"group twice":          {yaml: oneNode + "  - brokerName: broker-a\n    replicas: {n1: \"127.0.0.1:10\"}\n", want: []string{"groups[1].brokerName", "twice"}},
		"group leaves the dir": {yaml: replace("broker-a", "../broker-a"), want: []string{"groups[0].brokerName", "../broker-a"}},
		"group named namesrv":  {yaml: replace("broker-a", "namesrv"), want: []string{"groups[0].brokerName", "directory"}},
		"group and cluster":    {yaml: replace("broker-a", "DefaultCluster"), want: []string{"groups[0].brokerName", "cluster's name"}},
		"port twice":           {yaml: replace("127.0.0.1:9", "127.0.0.1:7"), want: []string{"groups[0].replicas.n1", "nodes.n1.peer", "port of its own"}},
		"port by another name": {yaml: replace("127.0.0.1:9", "localhost:7"), want: []string{"groups[0].replicas.n1", "nodes.n1.peer"}},
		"no port":              {yaml: replace("127.0.0.1:7", "127.0.0.1"), want: []string{"nodes.n1.peer", "host:port"}},
		"any address":          {yaml: replace("127.0.0.1:7", "0.0.0.0:7"), want: []string{"nodes.n1.peer", "bindAddress"}},
		"name that is none":    {yaml: replace("127.0.0.1:7", "nowhere.invalid:7"), want: []string{"nodes.n1.peer", "nowhere.invalid"}},
		"flushDiskType":        {args: set("flushDiskType=FAST"), want: []string{"flushDiskType", "SYNC_FLUSH or ASYNC_FLUSH"}},
		"a negative size":      {args: set("maxMessageSize=-1"), want: []string{"maxMessageSize", "frameMaxLength"}},
		"no size":              {args: set("raftSegmentSize=much"), want: []string{"raftSegmentSize", "1GiB"}},
		"no time":              {args: set("electionTimeout=soon"), want: []string{"electionTimeout", "300ms"}},
		"too short a time":     {args: set("electionTimeout=1ms"), want: []string{"electionTimeout", "from 50 to 60000"}},
		"segment < message":    {args: set("mappedFileSizeCommitLog=1MiB"), want: []string{"mappedFileSizeCommitLog", "maxMessageSize"}},
		"ratios the wrong way": {args: set("diskSpaceCleanForciblyRatio=50"), want: []string{"diskSpaceCleanForciblyRatio 50", "diskMaxUsedSpaceRatio 75 <="}},
		"role":                 {args: set("brokerRole=SLAVE"), want: []string{"brokerRole", "SYNC_MASTER"}},
		"no bool":              {args: set("autoCreateTopicEnable=maybe"), want: []string{"autoCreateTopicEnable", "maybe"}},
		"delay levels":         {args: set("messageDelayLevel=1x"), want: []string{"messageDelayLevel", "10s"}},
		"unknown key to set":   {args: set("flushDiscType=SYNC_FLUSH"), want: []string{"flushDiscType", "CONFIGURATION.md"}},
		"a table to set":       {args: set("nodes=x"), want: []string{"nodes", "in the file only"}},
		"no value to set":      {args: set("flushDiskType"), want: []string{"--set flushDiskType", "KEY=VALUE"}},
		"name servers":         {args: set("namesrvAddr=foo"), want: []string{"namesrvAddr", "host:port"}},
		"cluster name":         {args: set("brokerClusterName=a/b"), want: []string{"brokerClusterName", "a/b"}},
		"log level":            {args: []string{"--node", "n1", "--log-level", "loud"}, want: []string{"--log-level", "debug"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "config.yaml")
			if c.yaml == "" {
				c.yaml = oneNode
			}
			if c.args == nil {
				c.args = []string{"--node", "n1"}
			}
			if err := os.WriteFile(file, []byte(c.yaml), 0o640); err != nil {
				t.Fatal(err)
			}
			data := filepath.Join(dir, "data")
			args := append([]string{"server", "--config", file, "--set", "storePathRootDir=" + data}, c.args...)
			raftmq(t, args...).want(t, exitUsage, c.want...)
			if _, err := os.Stat(data); err == nil {
				t.Error("a data directory was made")
			}
		})
	}
}

func set(kv string) []string { return []string{"--node", "n1", "--set", kv} }

// Row 41: settings by flag go before the environment, and that before the file.
func TestConfigurationSources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(oneNode+"flushDiskType: FROM_FILE\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	env := []string{"RAFTMQ_CONFIG=" + file, "RAFTMQ_NODE_ID=n1"}
	raftmqIn(t, env, nil, "server").want(t, exitUsage, `flushDiskType: "FROM_FILE"`)
	env = append(env, "RAFTMQ_FLUSH_DISK_TYPE=FROM_ENVIRONMENT")
	raftmqIn(t, env, nil, "server").want(t, exitUsage, `flushDiskType: "FROM_ENVIRONMENT"`)
	raftmqIn(t, env, nil, "server", "--set", "flushDiskType=FROM_FLAG").want(t, exitUsage, `flushDiskType: "FROM_FLAG"`)
	raftmqIn(t, env, nil, "server", "--set", "flushDiskType=SYNC_FLUSH", "--node", "n2").want(t, exitUsage, `nodeId: "n2"`)
}

// Row 41: a data directory that is another's keeps the node from starting, and
// stays as it is.
func TestForeignDirectories(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, 1)
	raftmqIn(t, []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}, nil, "produce", "--topic", "Foreign", "--size", "100", "--count", "10").want(t, 0)
	own := c.dataDir("n1")

	t.Run("in use", func(t *testing.T) {
		// The same node once more, at other addresses.
		twin := newCluster(t, t.TempDir(), 1, 1)
		r := raftmq(t, "server", "--config", twin.config, "--node", "n1", "--set", "storePathRootDir="+own)
		r.want(t, exitFailed, own, "locked by another process")
	})
	c.stop()
	identity := filepath.Join(own, "broker-a", "replica.json")
	before, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	for name, yaml := range map[string]string{
		"another cluster's": strings.Replace(c.yaml(), "TestCluster", "OtherCluster", 1),
		"another node's":    strings.ReplaceAll(c.yaml(), "n1:", "n2:"),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(yaml), 0o640); err != nil {
				t.Fatal(err)
			}
			node := "n1"
			if strings.Contains(yaml, "n2:") {
				node = "n2"
			}
			r := raftmq(t, "server", "--config", file, "--node", node, "--set", "storePathRootDir="+own)
			r.want(t, exitUsage, identity, `cluster "TestCluster"`, `node "n1"`, "storePathRootDir of its own")
		})
	}
	t.Run("another segment size", func(t *testing.T) {
		raftmq(t, append(c.args("n1"), "--set", "mappedFileSizeCommitLog=32MiB")...).want(t, exitUsage, "mappedFileSizeCommitLog", own, "33554432", "16777216")
	})
	t.Run("no identity", func(t *testing.T) {
		if err := os.Rename(identity, identity+".away"); err != nil {
			t.Fatal(err)
		}
		raftmq(t, c.args("n1")...).want(t, exitFailed, identity, "is missing", "join again")
		if err := os.Rename(identity+".away", identity); err != nil {
			t.Fatal(err)
		}
	})
	if after, err := os.ReadFile(identity); err != nil || string(after) != string(before) {
		t.Errorf("%s was changed: %q, %v", identity, after, err)
	}
	// None of it has done any harm.
	c.start("n1")
	c.healthy()
	raftmqIn(t, []string{"RAFTMQ_NAMESRV=" + c.namesrvs()}, nil, "consume", "--topic", "Foreign", "--group", "g", "--count", "10").want(t, 0, "consumed 10 messages")
	c.stop()
	c.verify()
}

// Row 41: a second process with the id of a node, with a directory and addresses
// of its own, stays outside: it makes no group, and costs the leader nothing.
func TestDuplicateNodeID(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, 1)
	leader, term := c.leader("broker-a")
	twin := newCluster(t, t.TempDir(), 3, 1)
	t.Cleanup(twin.killAll)
	// It knows its peers where they are, and says that n1 is elsewhere.
	for _, id := range []string{"n2", "n3"} {
		twin.peer[id], twin.namesrv[id], twin.brokers["broker-a"][id] = c.peer[id], c.namesrv[id], c.brokers["broker-a"][id]
	}
	twin.write(twin.yaml())
	twin.start("n1")
	eventually(t, "the second n1 says why it waits", func() error {
		text, err := os.ReadFile(twin.log("n1"))
		if err == nil && !strings.Contains(string(text), "the group exists") {
			err = os.ErrNotExist
		}
		return err
	})
	// Longer than any election would take.
	for range 20 {
		s, err := twin.status("broker-a", "n1")
		if err != nil {
			t.Fatal(err)
		}
		if s.State == "Leader" || s.LastIndex > 0 {
			t.Fatalf("the second n1 is %+v", s)
		}
		<-time.After(100 * time.Millisecond) // the time in which nothing may happen
	}
	if now, newTerm := c.leader("broker-a"); now != leader || newTerm != term {
		t.Errorf("%s led in term %d, then %s in term %d", leader, term, now, newTerm)
	}
	if s, err := c.status("broker-a", leader); err != nil || len(s.Members) != 3 {
		t.Errorf("the group has %v, %v", s.Members, err)
	}
}
