// nats.ws with nats-server.
import assert from 'node:assert/strict';
import { webcrypto } from 'node:crypto';
import { StringCodec, connect } from 'nats.ws';
import { WebSocket } from 'ws';
import { MESSAGES, NUMBERS, daemon, directory, dying, expired, file, freePort, listening, play, token } from './play.mjs';

// What Debian's Node 18 does not have by itself.
globalThis.WebSocket = WebSocket;
globalThis.crypto ??= webcrypto;
const codec = StringCodec();
const servers = {};

async function natsServer(name, authorization) {
  const path = directory();
  const [port, plain] = [await freePort(), await freePort()];
  const config = file(path, 'nats.conf', `
    host: 127.0.0.1, port: ${plain}, trace: true, debug: true
    websocket { host: 127.0.0.1, port: ${port}, no_tls: true }
    ${authorization}
  `);
  servers[name] = daemon('nats-server', ['-c', config]);
  return listening(port, servers[name]);
}

async function exactly(client) {
  const got = [];
  const subscription = client.subscribe('count', { max: MESSAGES });
  for (const number of NUMBERS) client.publish('count', codec.encode(String(number)));
  for await (const message of subscription) got.push(Number(codec.decode(message.data)));
  assert.deepEqual(got, NUMBERS);
}

const refused = (servers, options) => connect({ servers, ...options }).then(() => null, (error) => error.code);

await play({
  9222: () => natsServer('open', ''),
  9223: () => natsServer('guarded', 'authorization { user: gate, password: of-the-gate }'),
}, (gate) => ({
  async 'nats.ws is admitted by token, password and jwt, and 1000 messages arrive'() {
    const jwt = token('alice');
    for (const login of [{ token: jwt }, { user: 'alice', pass: jwt }, { authenticator: () => ({ jwt }) }]) {
      const client = await connect({ servers: `${gate}/ws/nats`, ...login });
      await exactly(client);
      await client.close();
    }
    assert.doesNotMatch(servers.open.printed, new RegExp(jwt));
  },
  async 'nats.ws is logged in to a guarded server as the gate'() {
    assert.equal(await refused(`${gate}/ws/guarded`, { user: 'gate', pass: 'of-the-gate' }), 'AUTHORIZATION_VIOLATION');
    const client = await connect({ servers: `${gate}/ws/guarded`, token: token('alice') });
    await exactly(client);
    await client.close();
  },
  async 'nats.ws gets its refusal for no, a bad, an expired token and for another name'() {
    for (const login of [
      {}, { token: 'nonsense' }, { token: expired('alice') }, { user: 'mallory', pass: token('alice') },
    ]) {
      assert.equal(await refused(`${gate}/ws/nats`, login), 'AUTHORIZATION_VIOLATION', JSON.stringify(login));
    }
  },
  async 'nats.ws is closed when its token expires, and comes back with a fresh one'() {
    const tokens = [dying('alice'), token('alice')];
    const client = await connect({
      servers: `${gate}/ws/nats`, reconnectTimeWait: 10,
      authenticator: () => ({ auth_token: tokens.length > 1 ? tokens.shift() : tokens[0] }),
    });
    for await (const status of client.status()) if (status.type === 'reconnect') break;
    await exactly(client);
    await client.close();
  },
}));
