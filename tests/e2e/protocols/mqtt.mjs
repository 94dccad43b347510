// MQTT.js, in node and in Chromium, with mosquitto.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import mqtt from 'mqtt';
import { chromium } from 'playwright-core';
import { WebSocket } from 'ws';
import { MESSAGES, NUMBERS, PAGE, daemon, directory, dying, expired, file, freePort, later, listen, listening, play, token } from './play.mjs';

const brokers = {};

async function mosquitto(name, rules) {
  const path = directory();
  // 2.0.11 does not start with a listener for WebSockets alone.
  const [port, plain] = [await freePort(), await freePort()];
  const user = process.getuid() === 0 ? 'user root\n' : '';
  const config = file(path, 'mosquitto.conf', `${user}listener ${plain} 127.0.0.1\nlistener ${port} 127.0.0.1\nprotocol websockets\n${rules(path)}\nlog_dest stderr\n`);
  brokers[name] = daemon('mosquitto', ['-c', config]);
  return listening(port, brokers[name]);
}

function passwords(path) {
  const list = file(path, 'passwords', 'alice:of-the-gate\n');
  const hashing = daemon('mosquitto_passwd', ['-U', list]);
  return hashing.ended.then(() => `allow_anonymous false\npassword_file ${list}`);
}

async function guarded() {
  const path = directory();
  const rules = await passwords(path);
  return mosquitto('guarded', () => rules);
}

await play({ 9001: () => mosquitto('open', () => 'allow_anonymous true'), 9002: guarded }, (gate) => {
  const exactly = async (client) => {
    const got = [];
    const all = later();
    await client.subscribeAsync('count', { qos: 1 });
    client.on('message', (_topic, payload) => { if (got.push(Number(payload)) === MESSAGES) all.resolve(); });
    await Promise.all(NUMBERS.map((number) => client.publishAsync('count', String(number), { qos: 1 })));
    await all.promise;
    assert.deepEqual(got, NUMBERS);
  };
  return {
    async 'MQTT.js 3.1.1 and 5 are admitted as the subject, and 1000 messages arrive'() {
      for (const protocolVersion of [4, 5]) {
        brokers.open.printed = '';
        const client = await mqtt.connectAsync(`${gate}/mqtt`, { protocolVersion, username: 'alice', password: token('alice'), reconnectPeriod: 0 });
        await exactly(client);
        assert.match(brokers.open.printed, new RegExp(`p${protocolVersion === 4 ? 2 : 5}.*u'alice'`));
        await client.endAsync();
      }
    },
    async 'MQTT.js is logged in to a guarded broker as the subject'() {
      const client = await mqtt.connectAsync(`${gate}/guarded`, { username: 'anybody', password: token('alice'), reconnectPeriod: 0 });
      await exactly(client);
      await client.endAsync();
      const refused = mqtt.connect(`${gate}/guarded`, { username: 'alice', password: 'of-the-gate', reconnectPeriod: 0 });
      const [error] = await once(refused, 'error').catch((error) => [error]);
      assert.equal(error.code, 5);
      await refused.endAsync(true);
    },
    async 'MQTT.js gets its refusal for no, a bad, an expired token and for another name'() {
      for (const [protocolVersion, code] of [[4, 5], [5, 0x87]]) {
        for (const [username, password] of [
          ['alice', undefined], ['alice', 'nonsense'], ['alice', expired('alice')], ['mallory', token('alice')],
        ]) {
          const client = mqtt.connect(`${gate}/mqtt`, { protocolVersion, username, password, reconnectPeriod: 0 });
          const [error] = await once(client, 'error').catch((error) => [error]);
          assert.equal(error.code, code, error.message);
          await client.endAsync(true);
        }
      }
    },
    async 'MQTT.js is closed when its token expires, and comes back with a fresh one'() {
      const codes = [];
      const client = await mqtt.connectAsync(`${gate}/mqtt`, {
        username: 'alice', password: dying('alice'), reconnectPeriod: 10,
        createWebsocket: (url, protocols) => {
          const socket = new WebSocket(url, protocols);
          socket.on('close', (code) => codes.push(code));
          return socket;
        },
      });
      await once(client, 'close');
      client.options.password = token('alice');
      await once(client, 'connect');
      assert.deepEqual(codes, [4002]);
      await exactly(client);
      await client.endAsync();
    },
    async 'MQTT.js in Chromium is admitted with 1000 messages, and refused'() {
      const port = await listen(createServer((_request, response) => response.end(PAGE)));
      const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
      try {
        const page = await browser.newPage();
        await page.goto(`http://127.0.0.1:${port}/`);
        await page.addScriptTag({ path: fileURLToPath(new URL('../node_modules/mqtt/dist/mqtt.min.js', import.meta.url)) });
        const got = await page.evaluate(async ([url, password, messages]) => {
          const client = await mqtt.connectAsync(url, { username: 'alice', password, reconnectPeriod: 0 });
          await client.subscribeAsync('page');
          const got = [];
          const all = new Promise((resolve) => {
            client.on('message', (_topic, payload) => { if (got.push(Number(payload)) === messages) resolve(); });
          });
          for (let number = 0; number < messages; number += 1) client.publish('page', String(number));
          await all;
          await client.endAsync();
          return got;
        }, [`${gate}/mqtt`, token('alice'), MESSAGES]);
        assert.deepEqual(got, NUMBERS);
        const code = await page.evaluate(async ([url]) => {
          const client = mqtt.connect(url, { username: 'alice', password: 'nonsense', reconnectPeriod: 0 });
          const error = await new Promise((resolve) => client.once('error', resolve));
          await client.endAsync(true);
          return error.code;
        }, [`${gate}/mqtt`]);
        assert.equal(code, 5);
      } finally {
        await browser.close();
      }
    },
  };
});
