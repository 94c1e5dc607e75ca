package broker

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// runtimeInfo answers GET_BROKER_RUNTIME_INFO (28): what tools and exporters show
// of a broker. Numbers that have no meaning here (thread pools, page cache locks)
// are 0: exporters refuse a broker that leaves one out.
func (b *Broker) runtimeInfo(context.Context, *session, *remoting.Command) (answer, error) {
	store := b.group.Store()
	c := &b.counters
	num := func(n int64) string { return strconv.FormatInt(n, 10) }
	three := func(r [3]float64) string { return fmt.Sprintf("%.2f %.2f %.2f", r[0], r[1], r[2]) }
	lead := b.group.Leadership()
	t := remoting.KVTable{
		"brokerName":              b.name,
		"brokerActive":            strconv.FormatBool(lead.Self),
		"brokerVersionDesc":       "V5_3_2",
		"brokerVersion":           num(int64(remoting.Version)),
		"bootTimestamp":           num(b.started.UnixMilli()),
		"runtime":                 runtimeText(time.Since(b.started)),
		"putTps":                  three(c.put.perSecond()),
		"getFoundTps":             three(c.get.perSecond()),
		"getMissTps":              three(c.getMiss.perSecond()),
		"getTotalTps":             three(sum(c.get.perSecond(), c.getMiss.perSecond())),
		"getTransferedTps":        three(c.get.perSecond()),
		"getTransferredTps":       three(c.get.perSecond()),
		"putMessageTimesTotal":    num(c.put.n.Load()),
		"putMessageFailedTimes":   num(c.putFailed.Load()),
		"putMessageUnknownTimes":  num(c.putUnknown.Load()),
		"putMessageEntireTimeMax": num(c.put.slowest.Load() / int64(time.Millisecond)),
		"commitLogMinOffset":      num(store.Min()),
		"commitLogMaxOffset":      num(store.End()),
		"raftTerm":                num(int64(lead.Term)),
		"raftLeader":              lead.Node,
		"heldPulls":               num(int64(b.holds.count())),
	}
	for _, name := range zeroCounts {
		t[name] = "0"
	}
	if usage, err := b.group.DiskUsage(); err == nil {
		t["commitLogDiskRatio"] = strconv.FormatFloat(usage, 'f', 4, 64)
		t["consumeQueueDiskRatio"] = t["commitLogDiskRatio"]
	}
	if free, total, err := b.group.DiskSpace(); err == nil {
		const gib = 1 << 30
		t["commitLogDirCapacity"] = fmt.Sprintf("Total : %.1f GiB, Free : %.1f GiB.", float64(total)/gib, float64(free)/gib)
	}
	t["earliestMessageTimeStamp"] = "-1"
	if at, err := b.storeTime(store.Min()); err == nil {
		t["earliestMessageTimeStamp"] = num(at)
	}
	for _, name := range [...]string{"msgPutTotalTodayNow", "msgGetTotalTodayNow"} {
		r := &c.put
		if name == "msgGetTotalTodayNow" {
			r = &c.get
		}
		t[name] = num(r.n.Load())
	}
	return answer{body: t.AppendBody(nil)}, nil
}

func sum(a, b [3]float64) [3]float64 { return [3]float64{a[0] + b[0], a[1] + b[1], a[2] + b[2]} }

// zeroCounts are the keys that tools want to be there.
var zeroCounts = []string{
	"sendThreadPoolQueueSize", "sendThreadPoolQueueCapacity", "sendThreadPoolQueueHeadWaitTimeMills",
	"pullThreadPoolQueueSize", "pullThreadPoolQueueCapacity", "pullThreadPoolQueueHeadWaitTimeMills",
	"litePullThreadPoolQueueSize", "litePullThreadPoolQueueCapacity", "litePullThreadPoolQueueHeadWaitTimeMills",
	"queryThreadPoolQueueSize", "queryThreadPoolQueueCapacity", "queryThreadPoolQueueHeadWaitTimeMills",
	"ackThreadPoolQueueSize", "ackThreadPoolQueueCapacity", "ackThreadPoolQueueHeadWaitTimeMills",
	"EndTransactionQueueSize", "EndTransactionThreadPoolQueueCapacity",
	"pageCacheLockTimeMills", "startAcceptSendRequestTimeStamp", "dispatchBehindBytes", "remainTransientStoreBufferNumbs",
	"dispatchMaxBuffer", "putMessageSizeTotal", "putMessageAverageSize", "getMessageEntireTimeMax", "putLatency99", "putLatency999",
	"msgPutTotalYesterdayMorning", "msgPutTotalTodayMorning", "msgGetTotalYesterdayMorning", "msgGetTotalTodayMorning",
	"timerReadBehind", "timerOffsetBehind", "timerCongestNum", "timerEnqueueTps", "timerDequeueTps",
}

func runtimeText(d time.Duration) string {
	s := int64(d / time.Second)
	return fmt.Sprintf("[ %d days, %d hours, %d minutes, %d seconds ]", s/86400, s/3600%24, s/60%60, s%60)
}

// brokerConfig answers GET_BROKER_CONFIG (26): the keys of the configuration, one
// a line.
func (b *Broker) brokerConfig(_ *session, req *remoting.Command) {
	req.Responder().Respond(&remoting.Command{Code: remoting.Success, Body: []byte(b.cfg.properties(b))})
}
