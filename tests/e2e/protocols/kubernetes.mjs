// The exec of a console in Chromium, as kubectl's server side speaks it in WebSockets
// (https://kubernetes.io/docs/reference/using-api/api-concepts/, v5.channel.k8s.io): each
// message begins with its channel. An API server needs more than a registry has: this is
// as much of one as gives stdin back on stdout and closes with a status.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';
import { WebSocketServer } from 'ws';
import { MESSAGES, NUMBERS, PAGE, dying, expired, listen, play, token } from './play.mjs';

const CHANNEL = 'v5.channel.k8s.io';
const seen = [];

async function api() {
  const server = createServer((_request, response) => response.writeHead(404).end());
  new WebSocketServer({ server, handleProtocols: (offered) => (offered.has(CHANNEL) ? CHANNEL : false) })
    .on('connection', (socket, request) => {
      seen.push([request.headers['x-remote-user'], request.headers['sec-websocket-protocol'], request.headers.authorization]);
      socket.on('message', (data) => {
        if (data[0] === 0) socket.send(Buffer.concat([Buffer.from([1]), data.subarray(1)]));
        // v5: channel 255 says that the other one ends.
        if (data[0] === 255) {
          socket.send(Buffer.from(`\x03${JSON.stringify({ status: 'Success' })}`));
          socket.close(1000);
        }
      });
    });
  return listen(server);
}

const pages = () => listen(createServer((_request, response) => response.end(PAGE)));

await play({ 8001: api, 8002: pages }, (gate) => ({
  async 'a console in Chromium is admitted by its subprotocol with 1000 messages, refused, and told of the end'() {
    const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
    try {
      const page = await browser.newPage();
      await page.goto(`${gate.replace('ws:', 'http:')}/console`);
      const url = `${gate}/api/v1/namespaces/a/pods/b/exec?command=sh&stdin=true&stdout=true`;
      const exec = (jwt, messages) => page.evaluate(([url, jwt, channel, messages]) => new Promise((resolve) => {
        const encoded = btoa(jwt).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
        const socket = new WebSocket(url, [`base64url.bearer.authorization.k8s.io.${encoded}`, channel]);
        socket.binaryType = 'arraybuffer';
        const told = { got: [] };
        socket.onopen = () => {
          told.protocol = socket.protocol;
          for (let number = 0; number < messages; number += 1) socket.send(new TextEncoder().encode(`\0${number}`));
          if (messages > 0) socket.send(new Uint8Array([255, 0]));
        };
        socket.onmessage = ({ data }) => {
          const text = new TextDecoder().decode(data);
          if (text[0] === '\x01') told.got.push(Number(text.slice(1)));
          else told.status = JSON.parse(text.slice(1)).status;
        };
        socket.onclose = ({ code, reason }) => resolve({ ...told, code, reason });
      }), [url, jwt, CHANNEL, messages]);
      for (const [jwt, code, reason] of [['nonsense', 4001, 'Unauthorized'], [expired('alice'), 4002, 'Session expired']]) {
        const told = await exec(jwt, 0);
        assert.deepEqual([told.code, told.reason], [code, reason]);
      }
      assert.deepEqual(seen, []);
      const told = await exec(token('alice'), MESSAGES);
      assert.deepEqual(told, { got: NUMBERS, protocol: CHANNEL, status: 'Success', code: 1000, reason: '' });
      assert.deepEqual(seen, [['alice', CHANNEL, undefined]]);
      assert.deepEqual((await exec(dying('alice'), 0)).code, 4002);
    } finally {
      await browser.close();
    }
  },
}));
