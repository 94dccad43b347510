// @rails/actioncable with ActionCable itself, on Puma.
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { WebSocket } from 'ws';
import { NUMBERS, daemon, dying, expired, freePort, later, listening, play, token } from './play.mjs';

// The library looks for a page around it.
Object.assign(globalThis, {
  addEventListener() {}, removeEventListener() {}, document: { visibilityState: 'visible' },
});
const { adapters, createConsumer } = await import('@rails/actioncable');

async function rails() {
  const port = await freePort();
  const rackup = fileURLToPath(new URL('actioncable.ru', import.meta.url));
  const puma = daemon('puma', ['-b', `tcp://127.0.0.1:${port}`, '-t', '1:2', '-e', 'production', rackup]);
  return listening(port, puma);
}

await play({ 28080: rails }, (gate) => {
  // As a browser does it: the cookie goes along, and the page is the gate's.
  const consumer = (path, cookie) => {
    const sockets = [];
    adapters.WebSocket = class extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols, { headers: cookie ? { cookie: `session=${cookie()}` } : {}, origin: gate.replace('ws:', 'http:') });
        sockets.push(this);
      }
    };
    return Object.assign(createConsumer(`${gate}${path}`), { sockets });
  };
  const subscribed = (one, more = {}) => new Promise((resolve, reject) => {
    const subscription = one.subscriptions.create('CountChannel', {
      connected: () => resolve(subscription), rejected: () => reject(new Error('rejected')), received() {}, ...more,
    });
  });
  const exactly = async (subscription) => {
    const got = [];
    const all = later();
    subscription.received = (data) => { if (got.push(data) === NUMBERS.length) all.resolve(); };
    for (const number of NUMBERS) subscription.send({ number });
    await all.promise;
    assert.deepEqual(got.map(({ number }) => number).sort((a, b) => a - b), NUMBERS);
    assert.deepEqual([got[0].user, got[0].cookie], ['alice', null]);
  };
  return {
    async 'actioncable is admitted by cookie and by the URL, and 1000 messages arrive'() {
      for (const [path, cookie] of [['/cable', () => token('alice')], [`/cable?token=${token('alice')}`]]) {
        const one = consumer(path, cookie);
        await exactly(await subscribed(one));
        one.disconnect();
      }
    },
    async 'actioncable is told to disconnect for no, a bad and an expired token, and does not try again'() {
      for (const cookie of [undefined, () => 'nonsense', () => expired('alice')]) {
        const one = consumer('/cable', cookie);
        const gone = new Promise((resolve) => {
          one.subscriptions.create('CountChannel', { disconnected: resolve });
        });
        assert.deepEqual(await gone, { willAttemptReconnect: false });
        assert.equal(one.sockets.length, 1);
        one.disconnect();
      }
    },
    async 'actioncable is closed when its token expires, and comes back with a fresh one'() {
      const tokens = [dying('alice'), token('alice')];
      const one = consumer('/cable', () => tokens.shift());
      const again = later();
      one.subscriptions.create('CountChannel', {
        connected() { if (tokens.length === 0) again.resolve(this); },
        received() {},
      });
      const gone = later();
      const wait = setInterval(() => {
        // The library looks after its socket every few seconds: somebody is in a hurry.
        if (one.sockets.at(-1)?.readyState === WebSocket.CLOSED) { gone.resolve(); one.connection.reopen(); }
      }, 50);
      await gone.promise;
      const subscription = await again.promise;
      clearInterval(wait);
      await exactly(subscription);
      one.disconnect();
    },
  };
});
