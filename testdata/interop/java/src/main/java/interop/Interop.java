package interop;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/**
 * Interop uses a cluster the way applications do, with the official client and
 * nothing of ours. It prints when a scenario is at work and how it ended, and exits
 * with 1 unless all of them passed:
 *
 *   java [-Dfaults=true] interop.Interop NAMESRV RUN [SCENARIO ...]
 *
 * RUN goes into the names of topics and groups. The topics exist: TOPIC-RUN-scenario
 * with 4 queues in each broker group. With faults, nodes are killed meanwhile: a
 * send that fails for all its own repeats is sent again, as an application would,
 * and counted.
 */
public final class Interop {
    private interface Scenario {
        String run() throws Exception;
    }

    private final String names;
    private final String run;
    private final AtomicInteger instances = new AtomicInteger();
    private final AtomicLong longestSend = new AtomicLong();
    private final AtomicInteger failedSends = new AtomicInteger();
    private final boolean faults = Boolean.getBoolean("faults");

    private Interop(String names, String run) {
        this.names = names;
        this.run = run;
    }

    public static void main(String[] args) throws Exception {
        Interop i = new Interop(args[0], args[1]);
        Map<String, Scenario> all = new TreeMap<>();
        all.put("send", i::send);
        all.put("ordered", i::ordered);
        all.put("tag", i::tag);
        all.put("sql", i::sql);
        all.put("broadcast", i::broadcast);
        all.put("retry", i::retry);
        all.put("delay", i::delay);
        all.put("timer", i::timer);
        all.put("transaction", i::transaction);
        all.put("pull", i::pull);
        all.put("reset", i::reset);
        all.put("query", i::query);
        List<String> wanted = new ArrayList<>(all.keySet());
        if (args.length > 2) {
            wanted = List.of(args).subList(2, args.length);
        }
        int failed = 0;
        for (String name : wanted) {
            long start = System.nanoTime();
            i.longestSend.set(0);
            i.failedSends.set(0);
            String verdict;
            System.out.println("START " + name);
            try {
                verdict = "PASS " + name + ": " + all.get(name).run();
            } catch (Throwable e) {
                failed++;
                verdict = "FAIL " + name + ": " + e;
                e.printStackTrace();
            }
            System.out.println(verdict + "; " + (System.nanoTime() - start) / 1000000 + " ms, longest send " + i.longestSend.get() + " ms, "
                + i.failedSends + " sends failed");
        }
        System.exit(failed == 0 ? 0 : 1);
    }

    private String topic(String scenario) {
        return "TOPIC-" + run + "-" + scenario;
    }

    private String group(String scenario) {
        return "GID-" + run + "-" + scenario;
    }

    private static void check(boolean ok, String what) {
        if (!ok) {
            throw new IllegalStateException(what);
        }
    }

    private static String text(Message m) {
        return new String(m.getBody(), StandardCharsets.UTF_8);
    }

    private Message message(String scenario, String tag, String body) {
        Message m = new Message(topic(scenario), tag, "key-" + body, body.getBytes(StandardCharsets.UTF_8));
        String number = body.replaceAll("\\D", "");
        if (!number.isEmpty()) {
            m.putUserProperty("n", number);
        }
        return m;
    }

    private DefaultMQProducer producer(String scenario) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer("PID-" + run + "-" + scenario);
        p.setNamesrvAddr(names);
        p.setInstanceName("p" + instances.incrementAndGet());
        p.start();
        return p;
    }

    private interface Send {
        SendResult run() throws Exception;
    }

    /** Sends; with faults, again if the client has given up or does not know. */
    private SendResult sure(Send send) throws Exception {
        long start = System.nanoTime();
        for (int attempt = 0; ; attempt++) {
            try {
                SendResult r = send.run();
                if (r.getSendStatus() == SendStatus.SEND_OK) {
                    took(start);
                    return r;
                }
                throw new IllegalStateException("a send ended with " + r);
            } catch (Exception e) {
                if (!faults || attempt == 200) {
                    throw e;
                }
                failedSends.incrementAndGet();
                TimeUnit.MILLISECONDS.sleep(50);
            }
        }
    }

    private SendResult sendOne(DefaultMQProducer p, Message m) throws Exception {
        return sure(() -> p.send(m));
    }

    private void took(long start) {
        longestSend.accumulateAndGet((System.nanoTime() - start) / 1000000, Math::max);
    }

    private DefaultMQPushConsumer consumer(String scenario) throws Exception {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group(scenario));
        c.setNamesrvAddr(names);
        c.setInstanceName("c" + instances.incrementAndGet());
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        return c;
    }

    /** What a listener has got: how often each body came. */
    private static final class Got {
        final Map<String, Integer> bodies = new ConcurrentHashMap<>();

        void add(String body) {
            bodies.merge(body, 1, Integer::sum);
        }

        int doubled() {
            int n = 0;
            for (int times : bodies.values()) {
                n += times - 1;
            }
            return n;
        }

        void await(Set<String> want, int seconds) throws InterruptedException {
            long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
            while (!bodies.keySet().containsAll(want) && System.nanoTime() < end) {
                TimeUnit.MILLISECONDS.sleep(20);
            }
            Set<String> missing = new HashSet<>(want);
            missing.removeAll(bodies.keySet());
            check(missing.isEmpty(), missing.size() + " of " + want.size() + " did not come in " + seconds + " s, like " + first(missing));
        }
    }

    private static String first(Set<String> s) {
        return s.isEmpty() ? "none" : s.iterator().next();
    }

    private DefaultMQPushConsumer listen(String scenario, Got got) throws Exception {
        return started(() -> {
            DefaultMQPushConsumer c = consumer(scenario);
            c.subscribe(topic(scenario), "*");
            c.registerMessageListener((MessageListenerConcurrently) (list, context) -> {
                for (MessageExt m : list) {
                    got.add(text(m));
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            c.start();
            return c;
        });
    }

    private interface Start<T> {
        T run() throws Exception;
    }

    /**
     * Starts something; with faults, again if that fails, as an application would: a
     * client that asks a name server which is down may say that there is no topic.
     */
    private <T> T started(Start<T> start) throws Exception {
        for (int attempt = 0; ; attempt++) {
            try {
                return start.run();
            } catch (Exception e) {
                if (!faults || attempt == 100) {
                    throw e;
                }
                TimeUnit.MILLISECONDS.sleep(300);
            }
        }
    }

    /** Sync, async, one-way and batch sends; two instances of a group share them. */
    private String send() throws Exception {
        // They share the queues before there is a message: a queue that changes hands
        // later is consumed again from what was committed, every 5 s.
        Got one = new Got();
        DefaultMQPushConsumer a = listen("send", one);
        DefaultMQPushConsumer b = listen("send", one);
        TimeUnit.SECONDS.sleep(1);
        System.out.println("START send, the sends");
        DefaultMQProducer p = producer("send");
        Set<String> sent = Collections.synchronizedSet(new HashSet<>());
        for (int n = 0; n < 1000; n++) {
            SendResult r = sendOne(p, message("send", "a", "sync" + n));
            check(r.getMsgId().length() >= 32 && r.getOffsetMsgId().length() == 32, "ids " + r);
            sent.add("sync" + n);
        }
        CountDownLatch done = new CountDownLatch(200);
        AtomicInteger failures = new AtomicInteger();
        for (int n = 0; n < 200; n++) {
            String body = "async" + n;
            long start = System.nanoTime();
            p.send(message("send", "a", body), new SendCallback() {
                @Override
                public void onSuccess(SendResult r) {
                    took(start);
                    sent.add(body);
                    done.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    failures.incrementAndGet();
                    done.countDown();
                }
            });
        }
        check(done.await(60, TimeUnit.SECONDS), "async sends without an answer: " + done.getCount());
        check(faults || failures.get() == 0, failures + " async sends failed");
        List<Message> batch = new ArrayList<>();
        for (int n = 0; n < 50; n++) {
            batch.add(message("send", "a", "batch" + n));
            sent.add("batch" + n);
        }
        sure(() -> p.send(batch));
        for (int n = 0; n < 50; n++) {
            p.sendOneway(message("send", "a", "oneway" + n));
        }
        one.await(sent, 60);
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(10);
        while (oneways(one) < 50 && System.nanoTime() < end) {
            TimeUnit.MILLISECONDS.sleep(20);
        }
        a.shutdown();
        b.shutdown();
        p.shutdown();
        check(faults || oneways(one) == 50 && one.doubled() == 0, oneways(one) + " one-way, " + one.doubled() + " doubled");
        return sent.size() + " consumed, " + one.doubled() + " doubled, " + failures + " async sends failed, " + oneways(one) + " of 50 one-way";
    }

    private static long oneways(Got got) {
        return got.bodies.keySet().stream().filter(b -> b.startsWith("oneway")).count();
    }

    /** Per key in order, with an ordered listener that fails once on a message. */
    private String ordered() throws Exception {
        DefaultMQProducer p = producer("ordered");
        Set<String> sent = new HashSet<>();
        for (int n = 0; n < 20; n++) {
            for (int key = 0; key < 6; key++) {
                String body = "k" + key + "-" + String.format("%03d", n);
                int number = key;
                sure(() -> p.send(message("ordered", "a", body), (queues, m, arg) -> {
                    List<MessageQueue> sorted = new ArrayList<>(queues);
                    Collections.sort(sorted);
                    return sorted.get((Integer) arg % sorted.size());
                }, number));
                sent.add(body);
            }
        }
        Got got = new Got();
        Map<String, String> last = new ConcurrentHashMap<>();
        List<String> wrong = Collections.synchronizedList(new ArrayList<>());
        AtomicLong failedAt = new AtomicLong();
        AtomicLong againAfter = new AtomicLong();
        DefaultMQPushConsumer c = started(() -> {
            DefaultMQPushConsumer k = consumer("ordered");
            k.subscribe(topic("ordered"), "*");
            k.registerMessageListener((MessageListenerOrderly) (list, context) -> {
                for (MessageExt m : list) {
                    String body = text(m);
                    if (body.equals("k3-010")) {
                        if (failedAt.compareAndSet(0, System.nanoTime())) {
                            return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                        }
                        againAfter.compareAndSet(0, (System.nanoTime() - failedAt.get()) / 1000000);
                    }
                    String key = body.substring(0, 2);
                    String before = last.get(key);
                    // The same again is a redelivery; an older one after a newer too.
                    if (got.bodies.get(body) == null && before != null && before.compareTo(body) > 0) {
                        wrong.add(before + " before " + body);
                    }
                    got.add(body);
                    if (before == null || before.compareTo(body) < 0) {
                        last.put(key, body);
                    }
                }
                return ConsumeOrderlyStatus.SUCCESS;
            });
            k.start();
            return k;
        });
        got.await(sent, 90);
        c.shutdown();
        p.shutdown();
        check(wrong.isEmpty(), "out of order: " + wrong);
        check(againAfter.get() >= 900, "the failed message came again after " + againAfter + " ms");
        return sent.size() + " in order, " + got.doubled() + " doubled, a failed one again after " + againAfter + " ms";
    }

    private String filtered(String scenario, MessageSelector selector, java.util.function.IntPredicate wanted) throws Exception {
        DefaultMQProducer p = producer(scenario);
        Set<String> want = new HashSet<>();
        for (int n = 0; n < 90; n++) {
            sendOne(p, message(scenario, "tag" + n % 3, "m" + n));
            if (wanted.test(n)) {
                want.add("m" + n);
            }
        }
        Got got = new Got();
        DefaultMQPushConsumer c = started(() -> {
            DefaultMQPushConsumer k = consumer(scenario);
            k.subscribe(topic(scenario), selector);
            k.registerMessageListener((MessageListenerConcurrently) (list, context) -> {
                for (MessageExt m : list) {
                    got.add(text(m));
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            k.start();
            return k;
        });
        got.await(want, 60);
        TimeUnit.SECONDS.sleep(1); // for what must not come
        c.shutdown();
        p.shutdown();
        check(got.bodies.keySet().equals(want), got.bodies.size() + " bodies came, " + want.size() + " match");
        return want.size() + " of 90";
    }

    private String tag() throws Exception {
        return filtered("tag", MessageSelector.byTag("tag0 || tag2"), n -> n % 3 != 1);
    }

    private String sql() throws Exception {
        return filtered("sql", MessageSelector.bySql("n BETWEEN 10 AND 29 AND TAGS IN ('tag0', 'tag1') OR n = 77"),
            n -> n >= 10 && n <= 29 && n % 3 != 2 || n == 77);
    }

    /** Two instances in broadcasting mode get all of it each. */
    private String broadcast() throws Exception {
        System.setProperty("rocketmq.client.localOffsetStoreDir", System.getProperty("java.io.tmpdir") + "/offsets-" + run);
        Got[] got = {new Got(), new Got()};
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        for (Got g : got) {
            DefaultMQPushConsumer c = started(() -> {
                DefaultMQPushConsumer k = consumer("broadcast");
                k.setMessageModel(broadcasting(k));
                k.subscribe(topic("broadcast"), "*");
                k.registerMessageListener((MessageListenerConcurrently) (list, context) -> {
                    for (MessageExt m : list) {
                        g.add(text(m));
                    }
                    return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
                });
                k.start();
                return k;
            });
            consumers.add(c);
        }
        DefaultMQProducer p = producer("broadcast");
        Set<String> sent = new HashSet<>();
        for (int n = 0; n < 60; n++) {
            sendOne(p, message("broadcast", "a", "m" + n));
            sent.add("m" + n);
        }
        for (Got g : got) {
            g.await(sent, 60);
        }
        for (DefaultMQPushConsumer c : consumers) {
            c.shutdown();
        }
        p.shutdown();
        return sent.size() + " each to two";
    }

    /** The enum has moved between packages: it is found by the setter's type. */
    @SuppressWarnings("unchecked")
    private static <E extends Enum<E>> E broadcasting(DefaultMQPushConsumer c) {
        return (E) Enum.valueOf((Class<E>) c.getMessageModel().getClass(), "BROADCASTING");
    }

    /** A message that always fails comes twice more and is then a dead letter. */
    private String retry() throws Exception {
        DefaultMQProducer p = producer("retry");
        sendOne(p, message("retry", "a", "bad"));
        sendOne(p, message("retry", "a", "good"));
        Map<String, List<Integer>> times = new ConcurrentHashMap<>();
        Set<String> ids = ConcurrentHashMap.newKeySet();
        DefaultMQPushConsumer c = started(() -> {
            DefaultMQPushConsumer k = consumer("retry");
            k.setMaxReconsumeTimes(2);
            k.subscribe(topic("retry"), "*");
            k.registerMessageListener((MessageListenerConcurrently) (list, context) -> {
                boolean ok = true;
                for (MessageExt m : list) {
                    String body = text(m);
                    times.computeIfAbsent(body, b -> Collections.synchronizedList(new ArrayList<>())).add(m.getReconsumeTimes());
                    if (body.equals("bad")) {
                        ids.add(m.getMsgId());
                        ok = m.getTopic().equals(topic("retry")) && false;
                    }
                }
                context.setDelayLevelWhenNextConsume(1);
                return ok ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS : ConsumeConcurrentlyStatus.RECONSUME_LATER;
            });
            k.start();
            return k;
        });
        Got dead = new Got();
        List<MessageExt> letters = Collections.synchronizedList(new ArrayList<>());
        DefaultMQPushConsumer d = started(() -> {
            DefaultMQPushConsumer k = new DefaultMQPushConsumer(group("retry-dlq"));
            k.setNamesrvAddr(names);
            k.setInstanceName("c" + instances.incrementAndGet());
            k.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            k.subscribe("%DLQ%" + group("retry"), "*");
            k.registerMessageListener((MessageListenerConcurrently) (list, context) -> {
                for (MessageExt m : list) {
                    letters.add(m);
                    dead.add(text(m));
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            k.start();
            return k;
        });
        dead.await(Set.of("bad"), 120);
        c.shutdown();
        d.shutdown();
        p.shutdown();
        check(new HashSet<>(times.get("bad")).equals(Set.of(0, 1, 2)), "reconsumeTimes " + times.get("bad"));
        check(times.get("good").get(0) == 0, "good " + times.get("good"));
        check(ids.size() == 1, "message ids " + ids);
        MessageExt letter = letters.get(0);
        check(topic("retry").equals(letter.getProperty("RETRY_TOPIC")), "RETRY_TOPIC " + letter.getProperties());
        check("key-bad".equals(letter.getKeys()) && "a".equals(letter.getTags()), "keys and tags " + letter.getProperties());
        return "deliveries " + times.get("bad").size() + ", then a dead letter; one id";
    }

    private String later(String scenario, java.util.function.Consumer<Message> when, long from, long to) throws Exception {
        DefaultMQProducer p = producer(scenario);
        Got got = new Got();
        Map<String, Long> came = new ConcurrentHashMap<>();
        DefaultMQPushConsumer c = started(() -> {
            DefaultMQPushConsumer k = consumer(scenario);
            k.subscribe(topic(scenario), "*");
            k.registerMessageListener((MessageListenerConcurrently) (list, context) -> {
                for (MessageExt m : list) {
                    came.putIfAbsent(text(m), System.currentTimeMillis());
                    got.add(text(m));
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            k.start();
            return k;
        });
        Map<String, Long> sent = new HashMap<>();
        for (int n = 0; n < 30; n++) {
            Message m = message(scenario, "a", "m" + n);
            when.accept(m);
            sent.put("m" + n, System.currentTimeMillis());
            sendOne(p, m);
        }
        got.await(sent.keySet(), 60);
        long least = Long.MAX_VALUE;
        long most = 0;
        for (String body : sent.keySet()) {
            long took = came.get(body) - sent.get(body);
            least = Math.min(least, took);
            most = Math.max(most, took);
        }
        c.shutdown();
        p.shutdown();
        check(least >= from, "one came after " + least + " ms");
        // A consumer that starts while a broker is down looks at its group again after
        // 20 s, and at the routes after 30 s: the message is there, it does not pull.
        check(most <= (faults ? to + 40000 : to), "one came after " + most + " ms");
        return "30 after " + least + " to " + most + " ms, " + got.doubled() + " doubled";
    }

    private String delay() throws Exception {
        return later("delay", m -> m.setDelayTimeLevel(2), 4900, 20000); // 5 s
    }

    private String timer() throws Exception {
        return later("timer", m -> MessageAccessor.putProperty(m, "TIMER_DELAY_MS", "3000"), 2900, 20000);
    }

    /** Commit, roll back, and leave it to the check. */
    private String transaction() throws Exception {
        AtomicInteger checks = new AtomicInteger();
        TransactionMQProducer p = new TransactionMQProducer("PID-" + run + "-transaction");
        p.setNamesrvAddr(names);
        p.setInstanceName("p" + instances.incrementAndGet());
        p.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message m, Object arg) {
                switch (text(m).charAt(0)) {
                    case 'c':
                        return LocalTransactionState.COMMIT_MESSAGE;
                    case 'r':
                        return LocalTransactionState.ROLLBACK_MESSAGE;
                    default:
                        return LocalTransactionState.UNKNOW;
                }
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt m) {
                checks.incrementAndGet();
                String body = text(m);
                if (body.startsWith("u")) {
                    return LocalTransactionState.COMMIT_MESSAGE;
                }
                // One whose end got lost, with a broker that was killed.
                return body.startsWith("c") ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
            }
        });
        p.start();
        Got got = new Got();
        DefaultMQPushConsumer c = listen("transaction", got);
        Set<String> want = new HashSet<>();
        for (int n = 0; n < 20; n++) {
            for (String kind : List.of("commit", "rollback", "unknown", "x-rolled-by-check")) {
                String body = kind + n;
                SendResult r = sure(() -> p.sendMessageInTransaction(message("transaction", "a", body), null));
                check(r.getTransactionId() != null, "" + r);
            }
            want.add("commit" + n);
            want.add("unknown" + n);
        }
        got.await(want, 120);
        TimeUnit.SECONDS.sleep(1); // for what must not come
        c.shutdown();
        p.shutdown();
        check(got.bodies.keySet().equals(want), "came: " + got.bodies.keySet());
        return want.size() + " visible, 40 not, " + got.doubled() + " doubled, " + checks + " checks";
    }

    /** The pull consumer: assigned queues, seek, commit. */
    private String pull() throws Exception {
        DefaultMQProducer p = producer("pull");
        Set<String> sent = new HashSet<>();
        for (int n = 0; n < 100; n++) {
            sendOne(p, message("pull", "a", "m" + n));
            sent.add("m" + n);
        }
        DefaultLitePullConsumer c = new DefaultLitePullConsumer(group("pull"));
        c.setNamesrvAddr(names);
        c.setInstanceName("c" + instances.incrementAndGet());
        c.setAutoCommit(false);
        c.start();
        List<MessageQueue> queues = new ArrayList<>(started(() -> c.fetchMessageQueues(topic("pull"))));
        c.assign(queues);
        for (int round = 0; round < 2; round++) {
            for (MessageQueue q : queues) {
                c.seekToBegin(q);
            }
            Got got = new Got();
            long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
            while (!got.bodies.keySet().containsAll(sent) && System.nanoTime() < end) {
                for (MessageExt m : c.poll(200)) {
                    got.add(text(m));
                }
            }
            check(got.bodies.keySet().equals(sent), "round " + round + ": " + got.bodies.size() + " of " + sent.size());
        }
        c.shutdown();
        p.shutdown();
        return sent.size() + " twice";
    }

    private DefaultMQAdminExt admin() throws Exception {
        DefaultMQAdminExt a = new DefaultMQAdminExt(20000);
        a.setNamesrvAddr(names);
        a.setInstanceName("a" + instances.incrementAndGet());
        a.start();
        return a;
    }

    /** A group's offsets are set back by time while it consumes: all comes again. */
    private String reset() throws Exception {
        DefaultMQProducer p = producer("reset");
        Set<String> sent = new HashSet<>();
        for (int n = 0; n < 60; n++) {
            sendOne(p, message("reset", "a", "m" + n));
            sent.add("m" + n);
        }
        Got got = new Got();
        DefaultMQPushConsumer c = listen("reset", got);
        got.await(sent, 60);
        DefaultMQAdminExt a = admin();
        Exception last = null;
        for (int attempt = 0; attempt < 20; attempt++) {
            try {
                a.resetOffsetByTimestamp(topic("reset"), group("reset"), 0, true);
                last = null;
                break;
            } catch (Exception e) {
                last = e;
                TimeUnit.SECONDS.sleep(1);
            }
        }
        if (last != null) {
            throw last;
        }
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
        while (got.bodies.values().stream().anyMatch(n -> n < 2) && System.nanoTime() < end) {
            TimeUnit.MILLISECONDS.sleep(50);
        }
        long again = got.bodies.values().stream().filter(n -> n > 1).count();
        a.shutdown();
        c.shutdown();
        p.shutdown();
        check(again == sent.size(), again + " of " + sent.size() + " came again");
        return again + " came again";
    }

    /** By offset id, by unique key, by key. */
    private String query() throws Exception {
        DefaultMQProducer p = producer("query");
        DefaultMQAdminExt a = admin();
        List<SendResult> results = new ArrayList<>();
        for (int n = 0; n < 30; n++) {
            results.add(sendOne(p, message("query", "a", "m" + n)));
        }
        for (int n = 0; n < 30; n++) {
            SendResult r = results.get(n);
            int number = n;
            String byKey = retrying(() -> {
                QueryResult q = a.queryMessage(topic("query"), "key-m" + number, 64, 0, Long.MAX_VALUE);
                check(q.getMessageList().size() == 1, q.getMessageList().size() + " have key-m" + number);
                return text(q.getMessageList().get(0));
            });
            check(byKey.equals("m" + n), "by key: " + byKey);
            String byUniq = retrying(() -> text(a.viewMessage(topic("query"), r.getMsgId())));
            check(byUniq.equals("m" + n), "by unique key: " + byUniq);
            String byId = retrying(() -> text(a.viewMessage(topic("query"), r.getOffsetMsgId())));
            check(byId.equals("m" + n), "by offset id: " + byId);
        }
        a.shutdown();
        p.shutdown();
        return "30 by key, by unique key, by offset id";
    }

    /** A replica that was killed comes back: so asks again for a while. */
    private static String retrying(Scenario s) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(40);
        while (true) {
            try {
                return s.run();
            } catch (Exception e) {
                if (System.nanoTime() > end) {
                    throw e;
                }
                TimeUnit.MILLISECONDS.sleep(200);
            }
        }
    }
}
