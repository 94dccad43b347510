// The client of SignalR, in node and in Chromium. No registry here has .NET: this is as
// much of a hub as answers what is invoked, by its protocol
// (https://github.com/dotnet/aspnetcore, src/SignalR/docs/specs/HubProtocol.md).
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { HubConnectionBuilder, LogLevel } from '@microsoft/signalr';
import { chromium } from 'playwright-core';
import { WebSocketServer } from 'ws';
import { MESSAGES, NUMBERS, PAGE, dying, expired, later, listen, play, token } from './play.mjs';

const END = '\u001e';
const seen = [];

async function hub() {
  const server = createServer((request, response) => {
    if (request.url === '/page') return response.end(PAGE);
    seen.push([request.headers['x-forwarded-user'], request.url, request.headers.authorization]);
    response.setHeader('content-type', 'application/json');
    const transports = [{ transport: 'WebSockets', transferFormats: ['Text'] }];
    return response.end(JSON.stringify({ negotiateVersion: 1, connectionId: 'c', connectionToken: 't', availableTransports: transports }));
  });
  new WebSocketServer({ server }).on('connection', (socket, request) => {
    seen.push([request.headers['x-forwarded-user'], request.url, request.headers.authorization]);
    socket.on('message', (data) => {
      for (const text of data.toString().split(END).filter(Boolean)) {
        const message = JSON.parse(text);
        if (message.protocol) socket.send(`{}${END}`);
        else if (message.type === 1) {
          socket.send(JSON.stringify({ type: 3, invocationId: message.invocationId, result: message.arguments[0] }) + END);
        }
      }
    });
  });
  return listen(server);
}

await play({ 5000: hub }, (gate) => {
  const url = `${gate.replace('ws:', 'http:')}/hub`;
  const build = (accessTokenFactory, options = {}) => new HubConnectionBuilder()
    .withUrl(url, { accessTokenFactory, ...options })
    .withAutomaticReconnect([0, 10, 10]).configureLogging(LogLevel.None).build();
  const exactly = async (connection) => {
    assert.deepEqual(await Promise.all(NUMBERS.map((number) => connection.invoke('Echo', number))), NUMBERS);
  };
  return {
    async 'signalr is admitted by its header, and 1000 invocations are answered'() {
      const connection = build(() => token('alice'));
      await connection.start();
      await exactly(connection);
      await connection.stop();
      assert.equal(seen.length, 2);
      for (const [user, , authorization] of seen.splice(0)) assert.deepEqual([user, authorization], ['alice', undefined]);
    },
    async 'signalr is refused with 401 for no, a bad and an expired token'() {
      for (const jwt of ['', 'nonsense', expired('alice')]) {
        await assert.rejects(build(() => jwt).start(), /401/);
      }
      assert.deepEqual(seen.splice(0), []);
    },
    async 'signalr is closed when its token expires, and comes back with a fresh one'() {
      let fresh = false;
      const connection = build(() => (fresh ? token('alice') : dying('alice')));
      const again = later();
      connection.onreconnecting(() => { fresh = true; });
      connection.onreconnected(again.resolve);
      await connection.start();
      await again.promise;
      await exactly(connection);
      await connection.stop();
      seen.splice(0);
    },
    async 'signalr in Chromium is admitted by ?access_token= with 1000 invocations, and refused'() {
      const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
      try {
        const page = await browser.newPage();
        const home = `${url.replace(/hub$/, '')}page`;
        await page.goto(home);
        await page.addScriptTag({ path: fileURLToPath(new URL('../node_modules/@microsoft/signalr/dist/browser/signalr.min.js', import.meta.url)) });
        const told = await page.evaluate(async ([url, good, bad, messages]) => {
          const build = (jwt) => new signalR.HubConnectionBuilder()
            .withUrl(url, { accessTokenFactory: () => jwt }).configureLogging(signalR.LogLevel.None).build();
          const connection = build(good);
          await connection.start();
          const got = await Promise.all(Array.from({ length: messages }, (_, number) => connection.invoke('Echo', number)));
          await connection.stop();
          return [got, await build(bad).start().then(() => '', (error) => String(error))];
        }, [url, token('alice'), 'nonsense', MESSAGES]);
        assert.deepEqual(told[0], NUMBERS);
        assert.match(told[1], /401/);
        const socket = seen.find(([, target]) => target.startsWith('/hub?'));
        assert.deepEqual(socket, ['alice', '/hub?id=t', undefined]);
      } finally {
        await browser.close();
      }
    },
  };
});
