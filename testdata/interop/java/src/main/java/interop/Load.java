package interop;

import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

/**
 * Load sends until its standard input ends, with the official client as it comes,
 * and prints what became of each message:
 *
 *   java interop.Load NAMESRV TOPIC SENDERS SIZE
 *
 * Bodies are "sender-seq ..." of SIZE bytes. "A micros sender seq ..." are
 * acknowledgements, "F sender seq" is a send that has thrown, "U sender seq" one
 * that ended with another status than SEND_OK.
 */
public final class Load {
    public static void main(String[] args) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer("PID-failover");
        p.setNamesrvAddr(args[0]);
        p.start();
        int senders = Integer.parseInt(args[2]);
        int size = Integer.parseInt(args[3]);
        AtomicBoolean end = new AtomicBoolean();
        ConcurrentLinkedQueue<String> outcomes = new ConcurrentLinkedQueue<>();
        List<Thread> threads = new ArrayList<>();
        for (int s = 0; s < senders; s++) {
            int sender = s;
            Thread t = new Thread(() -> {
                for (int seq = 0; !end.get(); seq++) {
                    StringBuilder body = new StringBuilder(sender + "-" + seq + " ");
                    while (body.length() < size) {
                        body.append('.');
                    }
                    String id = " " + sender + " " + seq;
                    try {
                        SendResult r = p.send(new Message(args[1], body.toString().getBytes(StandardCharsets.UTF_8)));
                        Instant now = Instant.now();
                        if (r.getSendStatus() == SendStatus.SEND_OK) {
                            outcomes.add((now.getEpochSecond() * 1000000 + now.getNano() / 1000) + id);
                        } else {
                            outcomes.add("U" + id);
                        }
                    } catch (Exception e) {
                        outcomes.add("F" + id);
                    }
                }
            });
            t.start();
            threads.add(t);
        }
        Thread printer = new Thread(() -> {
            for (boolean last = false; !last; ) {
                last = end.get() && threads.stream().noneMatch(Thread::isAlive);
                print(outcomes);
                try {
                    TimeUnit.MILLISECONDS.sleep(5);
                } catch (InterruptedException e) {
                    return;
                }
            }
        });
        printer.start();
        while (System.in.read() >= 0) {
            // nothing that is said matters
        }
        end.set(true);
        for (Thread t : threads) {
            t.join();
        }
        printer.join();
        p.shutdown();
        System.exit(0);
    }

    private static void print(ConcurrentLinkedQueue<String> outcomes) {
        StringBuilder acks = new StringBuilder();
        StringBuilder others = new StringBuilder();
        for (String o = outcomes.poll(); o != null; o = outcomes.poll()) {
            if (Character.isDigit(o.charAt(0))) {
                acks.append(' ').append(o);
                if (acks.length() > 60000) {
                    System.out.println("A" + acks);
                    acks.setLength(0);
                }
            } else {
                others.append(o).append('\n');
            }
        }
        if (acks.length() > 0) {
            System.out.println("A" + acks);
        }
        System.out.print(others);
        System.out.flush();
    }
}
