// Real clients and servers of the protocols whose login is their first message,
// with sockgate between them. Prints the servers' ports as one line of JSON, reads
// { gate, good, expired } as another, and prints one line "ok …" per promise.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import readline from 'node:readline';
import { Client as StompClient } from '@stomp/stompjs';
import { Centrifuge } from 'centrifuge';
import { GraphQLObjectType, GraphQLSchema, GraphQLString, execute, subscribe } from 'graphql';
import { createClient } from 'graphql-ws';
import { useServer } from 'graphql-ws/use/ws';
import mqtt from 'mqtt';
import { SubscriptionClient, SubscriptionServer } from 'subscriptions-transport-ws';
import { WebSocket, WebSocketServer } from 'ws';

const MESSAGES = 1000;
const seen = { graphql: [], old: [], stomp: [], centrifuge: [], mosquitto: '' };

function within(what, promise, ms = 10_000) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`late: ${what}`)), ms).unref());
  return Promise.race([promise, late]);
}

async function listen(server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server.address().port;
}

async function freePort() {
  const server = net.createServer();
  const port = await listen(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

// ---- servers ----------------------------------------------------------------

const field = { type: GraphQLString, resolve: () => 'hello' };
const schema = new GraphQLSchema({
  query: new GraphQLObjectType({ name: 'Query', fields: { hello: field } }),
  subscription: new GraphQLObjectType({
    name: 'Subscription',
    fields: {
      count: {
        type: GraphQLString,
        resolve: (value) => value,
        subscribe: async function* () {
          for (let number = 0; number < MESSAGES; number += 1) yield String(number);
        },
      },
    },
  }),
});

async function graphqlServer() {
  const server = createServer();
  const sockets = new WebSocketServer({ server });
  useServer({
    schema,
    onConnect: (context) => {
      const user = context.extra.request.headers['x-forwarded-user'];
      seen.graphql.push({ user, payload: context.connectionParams });
    },
  }, sockets);
  return listen(server);
}

async function oldGraphqlServer() {
  const server = createServer();
  SubscriptionServer.create({
    schema, execute, subscribe,
    onConnect: (payload, _socket, context) => {
      seen.old.push({ user: context.request.headers['x-forwarded-user'], payload });
    },
  }, { server });
  return listen(server);
}

// As much of a STOMP broker as gives every subscriber what is sent.
async function stompServer() {
  const server = createServer();
  new WebSocketServer({ server }).on('connection', (socket, request) => {
    const send = (command, headers, body = '') => {
      const lines = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`);
      socket.send(`${command}\n${lines.join('')}\n${body}\0`);
    };
    const subscriptions = new Map();
    socket.on('message', (data) => {
      for (const frame of data.toString().split('\0').filter((text) => text.trim())) {
        const [head, body] = frame.trimStart().split('\n\n');
        const [command, ...lines] = head.split('\n');
        const headers = Object.fromEntries(lines.map((line) => line.split(/:(.*)/s).slice(0, 2)));
        if (headers.receipt) send('RECEIPT', { 'receipt-id': headers.receipt });
        if (command === 'CONNECT' || command === 'STOMP') {
          seen.stomp.push({ user: request.headers['x-forwarded-user'], protocol: socket.protocol, headers });
          send('CONNECTED', { version: '1.2' });
        } else if (command === 'SUBSCRIBE') {
          subscriptions.set(headers.destination, headers.id);
        } else if (command === 'SEND') {
          const subscription = subscriptions.get(headers.destination);
          send('MESSAGE', { subscription, destination: headers.destination, 'message-id': 1 }, body);
        }
      }
    });
  });
  return listen(server);
}

// As much of Centrifugo as its client needs to be connected.
async function centrifugeServer() {
  const server = createServer();
  new WebSocketServer({ server }).on('connection', (socket, request) => {
    socket.on('message', (data) => {
      for (const line of data.toString().split('\n').filter(Boolean)) {
        const command = JSON.parse(line);
        if (!command.connect) continue;
        seen.centrifuge.push({ user: request.headers['x-forwarded-user'], connect: command.connect });
        socket.send(JSON.stringify({ id: command.id, connect: { client: 'c', version: '5' } }));
      }
    });
  });
  return listen(server);
}

async function mosquitto() {
  const directory = mkdtempSync(join(tmpdir(), 'mosquitto-'));
  // 2.0.11 does not start with a listener for WebSockets alone.
  const [port, plain] = [await freePort(), await freePort()];
  const file = join(directory, 'mosquitto.conf');
  const user = process.getuid() === 0 ? 'user root\n' : '';
  writeFileSync(file, `${user}listener ${plain} 127.0.0.1\nlistener ${port} 127.0.0.1\nprotocol websockets\nallow_anonymous true\nlog_dest stderr\n`);
  const child = spawn('mosquitto', ['-c', file], { env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` } });
  const note = (data) => { seen.mosquitto += data; };
  child.stdout.on('data', note);
  child.stderr.on('data', note);
  process.on('exit', () => { child.kill('SIGKILL'); rmSync(directory, { recursive: true, force: true }); });
  for (;;) {
    const socket = net.connect(port, '127.0.0.1');
    const open = await new Promise((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    });
    socket.destroy();
    if (open) return port;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const ports = {
  graphql: await graphqlServer(),
  old: await oldGraphqlServer(),
  stomp: await stompServer(),
  mqtt: await within('mosquitto', mosquitto()),
  centrifuge: await centrifugeServer(),
};
console.log(JSON.stringify(ports));
const [line] = await once(readline.createInterface({ input: process.stdin }), 'line');
const { gate, good, expired } = JSON.parse(line);

// ---- clients ----------------------------------------------------------------

const cases = {
  async 'graphql-ws is admitted, and 1000 results arrive in order'() {
    const client = createClient({
      url: `${gate}/ws/graphql`, webSocketImpl: WebSocket,
      connectionParams: { Authorization: `Bearer ${good}`, locale: 'de' },
    });
    const got = [];
    for await (const result of client.iterate({ query: 'subscription { count }' })) got.push(Number(result.data.count));
    assert.deepEqual(got, Array.from({ length: MESSAGES }, (_, number) => number));
    assert.deepEqual(seen.graphql, [{ user: 'alice', payload: { locale: 'de' } }]);
    await client.dispose();
  },
  async 'graphql-ws with an expired token is closed by 4403 and comes back with a fresh one'() {
    const codes = [];
    const tokens = [expired, good];
    const client = createClient({
      url: `${gate}/ws/graphql`, webSocketImpl: WebSocket, retryWait: async () => {},
      connectionParams: () => ({ Authorization: tokens.shift() }),
      on: { closed: (event) => codes.push(event.code) },
    });
    const { value } = await client.iterate({ query: '{ hello }' }).next();
    assert.equal(value.data.hello, 'hello');
    assert.deepEqual([codes, tokens], [[4403], []]);
    await client.dispose();
  },
  async 'graphql-ws with a bad token is told so and does not try again'() {
    const client = createClient({
      url: `${gate}/ws/graphql`, webSocketImpl: WebSocket,
      connectionParams: { Authorization: 'nonsense' },
    });
    const error = await client.iterate({ query: '{ hello }' }).next().then(() => null, (error) => error);
    assert.deepEqual([error.code, error.reason], [4401, 'Unauthorized']);
  },
  async 'subscriptions-transport-ws is admitted and refused in its own words'() {
    const client = new SubscriptionClient(`${gate}/ws/old`, { connectionParams: { authorization: good } }, WebSocket);
    const hello = await new Promise((resolve, reject) => client.request({ query: '{ hello }' }).subscribe({ next: resolve, error: reject }));
    assert.equal(hello.data.hello, 'hello');
    assert.deepEqual(seen.old, [{ user: 'alice', payload: {} }]);
    client.close();
    const error = await new Promise((resolve) => {
      const refused = new SubscriptionClient(`${gate}/ws/old`, {
        connectionParams: { authorization: 'nonsense' }, reconnect: false,
        connectionCallback: (error) => { if (error) resolve(error); },
      }, WebSocket);
      refused.onError(() => {});
    });
    assert.equal(error.message, 'Unauthorized');
  },
  async 'stompjs is admitted, and 1000 messages arrive in order'() {
    const client = stomp({ Authorization: `Bearer ${good}` });
    await new Promise((resolve, reject) => { client.onConnect = resolve; client.onStompError = reject; client.activate(); });
    const got = [];
    const all = new Promise((resolve) => {
      client.subscribe('/queue', (message) => { if (got.push(Number(message.body)) === MESSAGES) resolve(); });
    });
    for (let number = 0; number < MESSAGES; number += 1) client.publish({ destination: '/queue', body: String(number) });
    await all;
    assert.deepEqual(got, Array.from({ length: MESSAGES }, (_, number) => number));
    const [{ user, protocol, headers }] = seen.stomp;
    assert.deepEqual([user, protocol, headers.Authorization], ['alice', 'v12.stomp', undefined]);
    await client.deactivate();
  },
  async 'stompjs gets an ERROR frame for a bad token and for another name'() {
    for (const [headers, message] of [
      [{ passcode: 'nonsense' }, 'Unauthorized'],
      [{ login: 'mallory', passcode: good }, 'Forbidden'],
    ]) {
      const client = stomp(headers);
      const frame = await new Promise((resolve) => { client.onStompError = resolve; client.activate(); });
      assert.equal(frame.headers.message, message);
      await client.deactivate();
    }
  },
  async 'MQTT.js 3.1.1 and 5 are admitted as the subject, and 1000 messages arrive'() {
    for (const protocolVersion of [4, 5]) {
      seen.mosquitto = '';
      const client = await mqtt.connectAsync(`${gate}/ws/mqtt`, { protocolVersion, username: 'alice', password: good, reconnectPeriod: 0 });
      await client.subscribeAsync('count', { qos: 1 });
      const got = [];
      const all = new Promise((resolve) => {
        client.on('message', (_topic, payload) => { if (got.push(Number(payload)) === MESSAGES) resolve(); });
      });
      await Promise.all(Array.from({ length: MESSAGES }, (_, number) => client.publishAsync('count', String(number), { qos: 1 })));
      await all;
      assert.deepEqual(got, Array.from({ length: MESSAGES }, (_, number) => number));
      assert.match(seen.mosquitto, new RegExp(`p${protocolVersion === 4 ? 2 : 5}.*u'alice'`));
      await client.endAsync();
    }
  },
  async 'MQTT.js gets its refusal for a bad token and for another name'() {
    for (const [protocolVersion, code] of [[4, 5], [5, 0x87]]) {
      for (const [username, password] of [['alice', 'nonsense'], ['mallory', good]]) {
        const client = mqtt.connect(`${gate}/ws/mqtt`, { protocolVersion, username, password, reconnectPeriod: 0 });
        const [error] = await once(client, 'error').catch((error) => [error]);
        assert.equal(error.code, code, error.message);
        await client.endAsync(true);
      }
    }
  },
  async 'centrifuge-js is admitted'() {
    const client = new Centrifuge(`${gate}/ws/centrifuge`, { websocket: WebSocket, token: good });
    client.connect();
    await client.ready(5000);
    assert.deepEqual([seen.centrifuge[0].user, seen.centrifuge[0].connect.token], ['alice', undefined]);
    client.disconnect();
  },
  async 'centrifuge-js fetches a fresh token for an expired one, and stops at a bad one'() {
    let asked = 0;
    const client = new Centrifuge(`${gate}/ws/centrifuge`, {
      websocket: WebSocket, token: expired, minReconnectDelay: 10, maxReconnectDelay: 20,
      getToken: async () => { asked += 1; return good; },
    });
    client.on('error', () => {});
    client.connect();
    await client.ready(5000);
    assert.equal(asked, 1);
    client.disconnect();
    const refused = new Centrifuge(`${gate}/ws/centrifuge`, { websocket: WebSocket, token: 'nonsense' });
    refused.on('error', () => {});
    const gone = new Promise((resolve) => refused.on('disconnected', resolve));
    refused.connect();
    assert.equal((await gone).code, 103);
  },
};

function stomp(connectHeaders) {
  return new StompClient({
    webSocketFactory: () => new WebSocket(`${gate}/ws/stomp`, ['v12.stomp', 'v11.stomp', 'v10.stomp']),
    connectHeaders, reconnectDelay: 0,
  });
}

const wanted = process.argv[2];
let failed = 0;
for (const [name, run] of Object.entries(cases).filter(([name]) => !wanted || name.includes(wanted))) {
  try {
    await within(name, run(), 20_000);
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`failed ${name}: ${error.stack ?? error}`);
  }
}
process.exit(failed === 0 ? 0 : 1);
