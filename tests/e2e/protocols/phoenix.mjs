// The client of Phoenix. No registry here has Phoenix itself: this is as much of it as
// joins channels and replies, by its serializer V2
// (https://hexdocs.pm/phoenix/writing_a_channels_client.html).
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { Socket } from 'phoenix';
import { WebSocket, WebSocketServer } from 'ws';
import { NUMBERS, dying, expired, later, listen, play, token } from './play.mjs';

globalThis.WebSocket = WebSocket;
const seen = [];

async function phoenix() {
  const server = createServer();
  const handleProtocols = (offered) => (offered.has('phoenix') ? 'phoenix' : false);
  new WebSocketServer({ server, handleProtocols }).on('connection', (socket, request) => {
    socket.on('message', (data) => {
      const [join, reference, topic, event, payload] = JSON.parse(data.toString());
      if (event === 'phx_join') {
        const offered = request.headers['sec-websocket-protocol'];
        seen.push([request.headers['x-forwarded-user'], request.url, offered, payload]);
      }
      socket.send(JSON.stringify([join, reference, topic, 'phx_reply', { status: 'ok', response: payload }]));
    });
  });
  return listen(server);
}

await play({ 4002: phoenix }, (gate) => {
  const open = (path, options) => {
    const socket = new Socket(`${gate}${path}`, { transport: WebSocket, reconnectAfterMs: () => 10, ...options });
    socket.connect();
    return socket;
  };
  const joined = (channel) => new Promise((resolve, reject) => {
    channel.join().receive('ok', resolve).receive('error', ({ reason }) => reject(new Error(reason)));
  });
  const exactly = async (channel) => {
    const got = [];
    const all = later();
    for (const number of NUMBERS) {
      channel.push('count', { number }).receive('ok', (payload) => {
        if (got.push(payload.number) === NUMBERS.length) all.resolve();
      });
    }
    await all.promise;
    assert.deepEqual(got, NUMBERS);
  };
  return {
    async 'phoenix is admitted by its subprotocol and by the URL, and 1000 messages arrive'() {
      for (const options of [{ authToken: token('alice') }, { params: { token: token('alice'), locale: 'de' } }]) {
        const socket = open('/socket', options);
        const channel = socket.channel('room', { v: 1 });
        await joined(channel);
        await exactly(channel);
        const [user, url, offered, payload] = seen.pop();
        assert.deepEqual([user, payload], ['alice', { v: 1 }]);
        assert.doesNotMatch(`${url} ${offered}`, /eyJ|bearer/);
        if (options.authToken) assert.equal(offered, 'phoenix');
        else assert.match(url, /locale=de/);
        await new Promise((resolve) => socket.disconnect(resolve));
      }
    },
    async 'phoenix sees the handshake of a refused socket fail'() {
      for (const options of [{}, { authToken: 'nonsense' }, { params: { token: expired('alice') } }]) {
        const socket = new Socket(`${gate}/socket`, { transport: WebSocket, reconnectAfterMs: () => 60_000, ...options });
        const refused = new Promise((resolve) => socket.onError(resolve));
        socket.connect();
        assert.match((await refused).message, /401/);
        await new Promise((resolve) => socket.disconnect(resolve));
      }
    },
    async 'phoenix is admitted by the join of a channel, and 1000 messages arrive'() {
      const socket = open('/channel', {});
      const channel = socket.channel('room', { token: token('alice'), v: 1 });
      await joined(channel);
      await exactly(channel);
      const [user, , , payload] = seen.pop();
      assert.deepEqual([user, payload], ['alice', { v: 1 }]);
      await new Promise((resolve) => socket.disconnect(resolve));
    },
    async 'the join of a channel is answered with an error for no, a bad and an expired token'() {
      for (const [params, reason] of [
        [{}, 'Unauthorized'], [{ token: 'nonsense' }, 'Unauthorized'], [{ token: expired('alice') }, 'Session expired'],
      ]) {
        const socket = open('/channel', {});
        await assert.rejects(joined(socket.channel('room', params)), new Error(reason));
        await new Promise((resolve) => socket.disconnect(resolve));
      }
    },
    async 'a channel of another user is answered with an error, and the socket closed'() {
      const socket = open('/channel', { reconnectAfterMs: () => 60_000 });
      await joined(socket.channel('room', { token: token('alice') }));
      const closed = new Promise((resolve) => socket.onClose(resolve));
      await assert.rejects(joined(socket.channel('other', { token: token('mallory') })), new Error('Forbidden'));
      assert.equal((await closed).code, 4003);
      await new Promise((resolve) => socket.disconnect(resolve));
    },
    async 'phoenix is closed when its token expires, and joins again with a fresh one'() {
      const tokens = [dying('alice'), token('alice')];
      const codes = [];
      const socket = open('/channel', {});
      socket.onClose((event) => codes.push(event.code));
      const channel = socket.channel('room', () => ({ token: tokens.shift() }));
      await joined(channel);
      while (codes.length === 0 || channel.state !== 'joined') await new Promise((resolve) => setTimeout(resolve, 20));
      assert.deepEqual(codes, [4002]);
      await exactly(channel);
      await new Promise((resolve) => socket.disconnect(resolve));
    },
  };
});
