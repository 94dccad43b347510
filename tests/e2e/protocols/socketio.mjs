// socket.io-client with a Socket.IO server.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { Server } from 'socket.io';
import { io } from 'socket.io-client';
import { NUMBERS, dying, expired, later, listen, play, token } from './play.mjs';

const seen = [];

function socketioServer() {
  const server = createServer();
  const sockets = new Server(server, { pingInterval: 300, pingTimeout: 5000 });
  for (const namespace of [sockets, sockets.of('/admin')]) {
    namespace.on('connection', (socket) => {
      seen.push([socket.nsp.name, socket.handshake.auth]);
      socket.on('count', (number) => socket.emit('counted', number));
    });
  }
  return listen(server);
}

async function exactly(socket) {
  const got = [];
  const all = later();
  socket.on('counted', (number) => { if (got.push(number) === NUMBERS.length) all.resolve(); });
  for (const number of NUMBERS) socket.emit('count', number);
  await all.promise;
  socket.off('counted');
  assert.deepEqual(got, NUMBERS);
}

await play({ 3000: socketioServer }, (gate) => {
  const client = (auth, namespace = '/', options = {}) => io(`${gate.replace('ws:', 'http:')}${namespace}`, {
    transports: ['websocket'], auth, forceNew: true, reconnectionDelay: 10, ...options,
  });
  return {
    async 'socket.io is admitted as the subject, and 1000 events arrive'() {
      const socket = client({ token: token('alice'), other: 1 });
      await once(socket, 'connect');
      await exactly(socket);
      assert.deepEqual(seen.shift(), ['/', { user: 'alice' }]);
      // Its server's pings are answered for longer than one interval.
      await new Promise((resolve) => setTimeout(resolve, 700));
      assert.ok(socket.connected);
      socket.disconnect();
    },
    async 'a namespace is another login, on the same connection'() {
      const jwt = token('alice');
      const socket = client({ token: jwt });
      await once(socket, 'connect');
      const admin = socket.io.socket('/admin', { auth: { token: jwt } });
      await once(admin, 'connect');
      await exactly(admin);
      assert.deepEqual(seen.splice(0).pop(), ['/admin', { user: 'alice' }]);
      const stranger = socket.io.socket('/other', { auth: { token: token('mallory') } });
      const error = await new Promise((resolve) => stranger.once('connect_error', resolve));
      assert.equal(error.message, 'Forbidden');
      for (const one of [admin, socket]) one.disconnect();
    },
    async 'socket.io gets a connect_error for no, a bad and an expired token'() {
      for (const [auth, message] of [
        [{}, 'Unauthorized'], [{ token: 'nonsense' }, 'Unauthorized'], [{ token: expired('alice') }, 'Session expired'],
      ]) {
        const socket = client(auth);
        const error = await new Promise((resolve) => socket.once('connect_error', resolve));
        assert.equal(error.message, message);
        assert.equal(socket.active, false);
        socket.disconnect();
      }
      assert.deepEqual(seen.splice(0), []);
    },
    async 'socket.io is closed when its token expires, and comes back with a fresh one'() {
      const tokens = [dying('alice'), token('alice')];
      const socket = client((answer) => answer({ token: tokens.length > 1 ? tokens.shift() : tokens[0] }));
      await once(socket, 'connect');
      const [reason] = await once(socket, 'disconnect');
      assert.equal(reason, 'transport close');
      await once(socket, 'connect');
      await exactly(socket);
      socket.disconnect();
    },
  };
});
