'use strict';

// Uses a cluster the way applications do, with the ali-ons client and nothing of
// ours. It prints when a scenario starts and how it ended, and exits with 1 unless
// all of them passed:
//
//   [FAULTS=true] node interop.js NAMESRV RUN [SCENARIO ...]
//
// The topics exist: TOPIC-RUN-scenario with 4 queues in each broker group. What
// the client does not offer (one-way, batch, ordered sends, SQL, transactions) is
// not here. With faults, nodes are killed meanwhile: a send that fails for all
// its own repeats is sent again, as an application would, and counted.

const os = require('os');
const path = require('path');
const assert = require('assert');
const httpclient = require('urllib');
const { Producer, Consumer, Message } = require('ali-ons');

const [ names, run, ...wanted ] = process.argv.slice(2);
const faults = process.env.FAULTS === 'true';
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
const topic = scenario => `TOPIC-${run}-${scenario}`;
const group = scenario => `GID-${run}-${scenario}`;
const quiet = { info() {}, debug() {}, warn() {}, error() {} };
let instances = 0;
let longest = 0;
let failed = 0;

function options(more) {
  return Object.assign({
    httpclient, logger: quiet, accessKeyId: 'none', accessKeySecret: 'none',
    nameSrv: names.split(';'), instanceName: `i${++instances}`,
  }, more);
}

async function producer(scenario) {
  const p = new Producer(options({ producerGroup: `PID-${run}-${scenario}` }));
  p.on('error', () => {}); // a broker that is gone: the send says so itself
  await p.ready();
  return p;
}

async function send(p, message) {
  const start = Date.now();
  for (let attempt = 0; ; attempt++) {
    try {
      const r = await p.send(message);
      assert.strictEqual(r.sendStatus, 'SEND_OK');
      longest = Math.max(longest, Date.now() - start);
      return r;
    } catch (e) {
      if (!faults || attempt === 200) throw e;
      failed++;
      await sleep(50);
    }
  }
}

function message(scenario, tag, body) {
  const m = new Message(topic(scenario), tag, body);
  m.keys = [ `key-${body}` ];
  return m;
}

// listen counts the bodies that come. A consumer that starts while a broker is
// down gives up; with faults another one is started, as an application would.
async function listen(scenario, tags, handler, more) {
  const got = new Map();
  for (let attempt = 0; ; attempt++) {
    const c = new Consumer(options(Object.assign({ consumerGroup: group(scenario), consumeFromWhere: 'CONSUME_FROM_FIRST_OFFSET' }, more)));
    c.on('error', () => {}); // it goes on by itself
    c.subscribe(topic(scenario), tags, async m => {
      const body = m.body.toString();
      const verdict = handler ? handler(m, body) : undefined;
      got.set(body, (got.get(body) || 0) + 1);
      return verdict;
    });
    try {
      await c.ready();
      return { got, close: () => c.close() };
    } catch (e) {
      await c.close().catch(() => {});
      if (!faults || attempt === 100) throw e;
      await sleep(200);
    }
  }
}

async function all(got, want, seconds) {
  const end = Date.now() + seconds * 1000;
  const missing = () => want.filter(b => !got.has(b));
  while (missing().length && Date.now() < end) await sleep(20);
  assert.strictEqual(missing().length, 0, `${missing().length} of ${want.length} did not come in ${seconds} s, like ${missing()[0]}`);
}

const doubled = got => [ ...got.values() ].reduce((n, times) => n + times - 1, 0);

const scenarios = {
  async send() {
    const p = await producer('send');
    const sent = [];
    for (let n = 0; n < 1000; n++) {
      const r = await send(p, message('send', 'a', `m${n}`));
      assert(r.msgId, JSON.stringify(r));
      sent.push(`m${n}`);
    }
    const c = await listen('send', '*');
    await all(c.got, sent, 60);
    await c.close();
    await p.close();
    assert(faults || doubled(c.got) === 0, `${doubled(c.got)} doubled`);
    return `${sent.length} consumed, ${doubled(c.got)} doubled`;
  },

  async tag() {
    const p = await producer('tag');
    const want = [];
    for (let n = 0; n < 90; n++) {
      await send(p, message('tag', `tag${n % 3}`, `m${n}`));
      if (n % 3 !== 1) want.push(`m${n}`);
    }
    const c = await listen('tag', 'tag0 || tag2');
    await all(c.got, want, 60);
    await sleep(1000); // for what must not come
    await c.close();
    await p.close();
    assert.strictEqual(c.got.size, want.length, `${c.got.size} bodies came, ${want.length} match`);
    return `${want.length} of 90`;
  },

  async broadcast() {
    const dir = path.join(os.tmpdir(), `offsets-${run}`);
    const two = [];
    for (let n = 0; n < 2; n++) two.push(await listen('broadcast', '*', null, { isBroadcast: true, storePath: path.join(dir, String(n)) }));
    const p = await producer('broadcast');
    const sent = [];
    for (let n = 0; n < 60; n++) {
      await send(p, message('broadcast', 'a', `m${n}`));
      sent.push(`m${n}`);
    }
    for (const c of two) await all(c.got, sent, 60);
    for (const c of two) await c.close();
    await p.close();
    return `${sent.length} each to two`;
  },

  // The client's first retry comes after the group's first level, 10 s.
  async retry() {
    const p = await producer('retry');
    const times = [];
    const ids = new Set();
    const c = await listen('retry', '*', (m, body) => {
      if (body !== 'bad') return undefined;
      times.push(m.reconsumeTimes);
      // To this client a message's id is its place; a copy names the first one's.
      ids.add(m.properties.ORIGIN_MESSAGE_ID || m.msgId);
      assert.strictEqual(m.topic, topic('retry'));
      return m.reconsumeTimes === 0 ? Consumer.ACTION_RETRY : undefined;
    });
    await send(p, message('retry', 'a', 'bad'));
    await send(p, message('retry', 'a', 'good'));
    const end = Date.now() + 90000;
    while (!times.includes(1) && Date.now() < end) await sleep(50);
    await c.close();
    await p.close();
    assert(times.includes(0) && times.includes(1), `reconsumeTimes ${times}`);
    assert.strictEqual(ids.size, 1, `ids ${[ ...ids ]}`);
    return `reconsumeTimes ${times}; one id`;
  },

  async delay() {
    const p = await producer('delay');
    const came = new Map();
    const c = await listen('delay', '*', (m, body) => { if (!came.has(body)) came.set(body, Date.now()); });
    const sent = new Map();
    for (let n = 0; n < 30; n++) {
      const m = message('delay', 'a', `m${n}`);
      m.delayTimeLevel = 2; // 5 s
      sent.set(`m${n}`, Date.now());
      await send(p, m);
    }
    await all(c.got, [ ...sent.keys() ], 60);
    await c.close();
    await p.close();
    const took = [ ...sent ].map(([ body, at ]) => came.get(body) - at);
    assert(Math.min(...took) >= 4900 && Math.max(...took) <= (faults ? 60000 : 20000), `after ${Math.min(...took)} to ${Math.max(...took)} ms`);
    return `30 after ${Math.min(...took)} to ${Math.max(...took)} ms, ${doubled(c.got)} doubled`;
  },
};

(async () => {
  let bad = 0;
  for (const name of wanted.length ? wanted : Object.keys(scenarios)) {
    const start = Date.now();
    longest = failed = 0;
    let verdict;
    console.log(`START ${name}`);
    try {
      verdict = `PASS ${name}: ${await scenarios[name]()}`;
    } catch (e) {
      bad++;
      verdict = `FAIL ${name}: ${e.message}`;
    }
    console.log(`${verdict}; ${Date.now() - start} ms, longest send ${longest} ms, ${failed} sends failed`);
  }
  process.exit(bad ? 1 : 0);
})();
