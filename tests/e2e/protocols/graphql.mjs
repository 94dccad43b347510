// graphql-ws and subscriptions-transport-ws with their servers.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { GraphQLObjectType, GraphQLSchema, GraphQLString, execute, subscribe } from 'graphql';
import { createClient } from 'graphql-ws';
import { useServer } from 'graphql-ws/use/ws';
import { SubscriptionClient, SubscriptionServer } from 'subscriptions-transport-ws';
import { WebSocket, WebSocketServer } from 'ws';
import { MESSAGES, NUMBERS, dying, expired, listen, play, sleep, token } from './play.mjs';

const seen = { current: [], old: [] };

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
      again: {
        type: GraphQLString,
        resolve: (value) => value,
        subscribe: async function* () {
          for (;;) { yield 'still here'; await sleep(100); }
        },
      },
    },
  }),
});

async function currentServer() {
  const server = createServer();
  useServer({
    schema,
    onConnect: (context) => {
      seen.current.push([context.extra.request.headers['x-forwarded-user'], context.connectionParams]);
    },
  }, new WebSocketServer({ server }));
  return listen(server);
}

async function oldServer() {
  const server = createServer();
  SubscriptionServer.create({
    schema, execute, subscribe,
    onConnect: (payload, _socket, context) => {
      seen.old.push([context.request.headers['x-forwarded-user'], payload]);
    },
  }, { server });
  return listen(server);
}

await play({ 4000: currentServer, 4001: oldServer }, (gate) => {
  const client = (connectionParams, options = {}) => createClient({
    url: `${gate}/graphql`, webSocketImpl: WebSocket, connectionParams, ...options,
  });
  const exactly = async (one) => {
    const got = [];
    for await (const result of one.iterate({ query: 'subscription { count }' })) got.push(Number(result.data.count));
    assert.deepEqual(got, NUMBERS);
  };
  return {
    async 'graphql-ws is admitted, and 1000 results arrive in order'() {
      const one = client({ Authorization: `Bearer ${token('alice')}`, locale: 'de' });
      await exactly(one);
      assert.deepEqual(seen.current, [['alice', { locale: 'de' }]]);
      await one.dispose();
    },
    async 'graphql-ws with an expired token is closed by 4403 and comes back with a fresh one'() {
      const codes = [];
      const tokens = [expired('alice'), token('alice')];
      const one = client(() => ({ Authorization: tokens.shift() }), {
        retryWait: async () => {}, on: { closed: (event) => codes.push(event.code) },
      });
      const { value } = await one.iterate({ query: '{ hello }' }).next();
      assert.equal(value.data.hello, 'hello');
      assert.deepEqual([codes, tokens], [[4403], []]);
      await one.dispose();
    },
    async 'graphql-ws with no or a bad token is told so and does not try again'() {
      for (const params of [{}, { Authorization: 'nonsense' }]) {
        const error = await client(params).iterate({ query: '{ hello }' }).next().then(() => null, (error) => error);
        assert.deepEqual([error.code, error.reason], [4401, 'Unauthorized']);
      }
    },
    async 'graphql-ws is closed when its token expires, and subscribes again with a fresh one'() {
      const codes = [];
      const tokens = [dying('alice'), token('alice')];
      const one = client(() => ({ Authorization: tokens.length > 1 ? tokens.shift() : tokens[0] }), {
        retryWait: async () => {}, on: { closed: (event) => codes.push(event.code) },
      });
      for await (const result of one.iterate({ query: 'subscription { again }' })) {
        assert.equal(result.data.again, 'still here');
        if (codes.length > 0) break;
      }
      assert.deepEqual(codes, [4002]);
      await exactly(one);
      await one.dispose();
    },
    async 'subscriptions-transport-ws is admitted, and 1000 results arrive in order'() {
      const one = new SubscriptionClient(`${gate}/subscriptions`, { connectionParams: { authorization: token('alice') } }, WebSocket);
      const got = [];
      await new Promise((resolve, reject) => one.request({ query: 'subscription { count }' }).subscribe({
        next: (result) => got.push(Number(result.data.count)), error: reject, complete: resolve,
      }));
      assert.deepEqual(got, NUMBERS);
      assert.deepEqual(seen.old, [['alice', {}]]);
      one.close();
    },
    async 'subscriptions-transport-ws is closed when its token expires, and goes on with a fresh one'() {
      const codes = [];
      class Noted extends WebSocket {
        constructor(...args) { super(...args); this.on('close', (code) => codes.push(code)); }
      }
      const tokens = [dying('alice'), token('alice')];
      const one = new SubscriptionClient(`${gate}/subscriptions`, {
        reconnect: true, connectionParams: () => ({ Authorization: tokens.length > 1 ? tokens.shift() : tokens[0] }),
      }, Noted);
      await new Promise((resolve, reject) => one.request({ query: 'subscription { again }' }).subscribe({
        next: (result) => { assert.equal(result.data.again, 'still here'); if (codes.length > 0) resolve(); }, error: reject,
      }));
      assert.deepEqual(codes, [4002]);
      one.close();
    },
    async 'subscriptions-transport-ws is refused in its own words'() {
      for (const [jwt, message] of [['nonsense', 'Unauthorized'], [expired('alice'), 'Session expired']]) {
        const error = await new Promise((resolve) => {
          const refused = new SubscriptionClient(`${gate}/subscriptions`, {
            connectionParams: { authorization: jwt }, reconnect: false,
            connectionCallback: (error) => { if (error) resolve(error); },
          }, WebSocket);
          refused.onError(() => {});
        });
        assert.equal(error.message, message);
      }
    },
  };
});
