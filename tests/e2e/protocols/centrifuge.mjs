// centrifuge-js. No registry here has Centrifugo: this is as much of it as answers
// `connect` and gives back what is sent, by its protocol
// (https://centrifugal.dev/docs/transports/client_protocol).
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { Centrifuge } from 'centrifuge';
import { WebSocket, WebSocketServer } from 'ws';
import { NUMBERS, dying, expired, later, listen, play, token } from './play.mjs';

const seen = [];

async function centrifugo() {
  const server = createServer();
  new WebSocketServer({ server }).on('connection', (socket, request) => {
    socket.on('message', (data) => {
      for (const line of data.toString().split('\n').filter(Boolean)) {
        const command = JSON.parse(line);
        if (command.connect) {
          seen.push([request.headers['x-forwarded-user'], command.connect]);
          socket.send(JSON.stringify({ id: command.id, connect: { client: 'c', version: '5' } }));
        } else if (command.send) {
          socket.send(JSON.stringify({ push: { message: { data: command.send.data } } }));
        }
      }
    });
  });
  return listen(server);
}

await play({ 8000: centrifugo }, (gate) => {
  const client = (options) => {
    const one = new Centrifuge(`${gate}/connection/websocket`, {
      websocket: WebSocket, minReconnectDelay: 10, maxReconnectDelay: 20, ...options,
    });
    one.on('error', () => {});
    return one;
  };
  const exactly = async (one) => {
    const got = [];
    const all = later();
    one.on('message', ({ data }) => { if (got.push(data) === NUMBERS.length) all.resolve(); });
    for (const number of NUMBERS) one.send(number);
    await all.promise;
    assert.deepEqual(got, NUMBERS);
  };
  return {
    async 'centrifuge-js is admitted, and 1000 messages arrive'() {
      const one = client({ token: token('alice'), name: 'test' });
      one.connect();
      await one.ready(5000);
      await exactly(one);
      const [user, connect] = seen[0];
      assert.deepEqual([user, connect.token, connect.name], ['alice', undefined, 'test']);
      one.disconnect();
    },
    async 'centrifuge-js fetches a fresh token for an expired one, and stops at none and a bad one'() {
      let asked = 0;
      const one = client({ token: expired('alice'), getToken: async () => { asked += 1; return token('alice'); } });
      one.connect();
      await one.ready(5000);
      assert.equal(asked, 1);
      one.disconnect();
      for (const options of [{ token: 'nonsense' }, {}]) {
        const refused = client(options);
        const gone = once(refused, 'disconnected');
        refused.connect();
        assert.equal((await gone)[0].code, 103);
      }
    },
    async 'centrifuge-js is closed when its token expires, and comes back with a fresh one'() {
      let asked = 0;
      const one = client({ token: dying('alice'), getToken: async () => { asked += 1; return token('alice'); } });
      const closed = new Promise((resolve) => one.on('connecting', ({ code }) => { if (code === 4002) resolve(); }));
      one.connect();
      await one.ready(5000);
      await closed;
      await one.ready(5000);
      // The library may show the old token once more before it asks for another.
      await exactly(one);
      assert.ok(asked <= 1);
      one.disconnect();
    },
  };
});
