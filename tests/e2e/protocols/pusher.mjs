// pusher-js in Chromium. No registry here has a server of it that runs on any machine:
// this is as much of one as establishes a connection and gives client events back
// (https://pusher.com/docs/channels/library_auth_reference/pusher-websockets-protocol/).
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { WebSocketServer } from 'ws';
import { MESSAGES, NUMBERS, PAGE, dying, expired, listen, play, token } from './play.mjs';

const seen = [];

async function pusher() {
  const server = createServer((_request, response) => response.end(PAGE));
  new WebSocketServer({ server }).on('connection', (socket, request) => {
    seen.push([request.headers['x-forwarded-user'], request.headers.cookie]);
    const tell = (event, data, channel) => socket.send(JSON.stringify({ event, data: JSON.stringify(data), channel }));
    tell('pusher:connection_established', { socket_id: '1.1', activity_timeout: 120 });
    socket.on('message', (text) => {
      const { event, data, channel } = JSON.parse(text);
      if (event === 'pusher:subscribe') tell('pusher_internal:subscription_succeeded', {}, data.channel);
      else tell(event, data, channel);
    });
  });
  return listen(server);
}

await play({ 6001: pusher }, (gate) => ({
  async 'pusher-js is admitted by its cookie with 1000 events, and refused without a good one'() {
    const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
    try {
      const home = `${gate.replace('ws:', 'http:')}/page`;
      const { hostname, port } = new URL(home);
      const context = await browser.newContext();
      const page = await context.newPage();
      await page.goto(home);
      await page.addScriptTag({ path: fileURLToPath(new URL('../node_modules/pusher-js/dist/web/pusher.min.js', import.meta.url)) });
      const cookie = (value) => context.addCookies([{ name: 'session', value, domain: hostname, path: '/' }]);
      const connect = (messages) => page.evaluate(async ([hostname, port, messages]) => {
        const client = new Pusher('key', {
          cluster: '', wsHost: hostname, wsPort: Number(port), forceTLS: false, enabledTransports: ['ws'], disableStats: true,
        });
        const error = new Promise((resolve) => client.connection.bind('error', (told) => resolve(told.data ?? told.error?.data)));
        const open = new Promise((resolve) => client.connection.bind('connected', () => resolve()));
        const refused = await Promise.race([error, open]);
        if (refused) {
          await new Promise((resolve) => setTimeout(resolve, 100));
          const { state } = client.connection;
          client.disconnect();
          return [refused, state];
        }
        const channel = client.subscribe('room');
        await new Promise((resolve) => channel.bind('pusher:subscription_succeeded', resolve));
        const got = [];
        const all = new Promise((resolve) => channel.bind('count', (number) => { if (got.push(number) === messages) resolve(); }));
        for (let number = 0; number < messages; number += 1) client.send_event('count', number, 'room');
        await all;
        client.disconnect();
        return got;
      }, [hostname, port, messages]);
      assert.deepEqual(await connect(MESSAGES).then(([told]) => told.message), 'Unauthorized');
      for (const [value, code, message] of [['nonsense', 4009, 'Unauthorized'], [expired('alice'), 4200, 'Session expired']]) {
        await cookie(value);
        const [told] = await connect(MESSAGES);
        assert.deepEqual([told.code, told.message], [code, message]);
      }
      assert.deepEqual(seen, []);
      await cookie(token('alice'));
      assert.deepEqual(await connect(MESSAGES), NUMBERS);
      assert.deepEqual(seen, [['alice', undefined]]);
      // A login that ends while the page is open: 4200 says to connect again at once.
      await cookie(dying('alice'));
      await page.evaluate(([hostname, port]) => {
        window.states = [];
        window.live = new Pusher('key', {
          cluster: '', wsHost: hostname, wsPort: Number(port), forceTLS: false, enabledTransports: ['ws'], disableStats: true,
        });
        live.connection.bind('state_change', ({ current }) => states.push(current));
        return new Promise((resolve) => live.connection.bind('connected', resolve));
      }, [hostname, port]);
      await cookie(token('alice'));
      await page.waitForFunction(() => states.filter((state) => state === 'connected').length > 1);
      assert.deepEqual(await page.evaluate(() => states), ['connected', 'connecting', 'connected']);
      assert.deepEqual(seen.map(([user]) => user), ['alice', 'alice', 'alice']);
    } finally {
      await browser.close();
    }
  },
}));
