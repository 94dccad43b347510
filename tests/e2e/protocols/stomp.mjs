// @stomp/stompjs with RabbitMQ.
import assert from 'node:assert/strict';
import { Client } from '@stomp/stompjs';
import { WebSocket } from 'ws';
import { NUMBERS, daemon, directory, dying, expired, file, freePort, later, listening, play, token } from './play.mjs';

async function rabbitmq() {
  const path = directory();
  const [amqp, stomp, web, distribution, names] = await Promise.all([0, 0, 0, 0, 0].map(freePort));
  const config = file(path, 'rabbitmq.conf', `
listeners.tcp.1 = 127.0.0.1:${amqp}
stomp.listeners.tcp.1 = 127.0.0.1:${stomp}
web_stomp.tcp.ip = 127.0.0.1
web_stomp.tcp.port = ${web}
stomp.default_user = guest
stomp.default_pass = guest
`);
  const plugins = file(path, 'plugins', '[rabbitmq_web_stomp].\n');
  // Ours to end, where RabbitMQ would leave one behind.
  const epmd = daemon('epmd', ['-port', String(names), '-address', '127.0.0.1']);
  await listening(names, epmd);
  const broker = daemon('/usr/lib/rabbitmq/bin/rabbitmq-server', [], {
    HOME: path,
    RABBITMQ_NODENAME: `sockgate-${process.pid}@localhost`,
    RABBITMQ_CONFIG_FILE: config,
    RABBITMQ_ENABLED_PLUGINS_FILE: plugins,
    RABBITMQ_MNESIA_BASE: `${path}/mnesia`,
    RABBITMQ_LOG_BASE: `${path}/log`,
    RABBITMQ_PID_FILE: `${path}/pid`,
    RABBITMQ_DIST_PORT: String(distribution),
    ERL_EPMD_PORT: String(names),
  });
  return listening(web, broker);
}

await play({ 15674: rabbitmq }, (gate) => {
  const client = (path, connectHeaders, options = {}) => new Client({
    webSocketFactory: () => new WebSocket(`${gate}${path}`, ['v12.stomp', 'v11.stomp', 'v10.stomp']),
    connectHeaders: { host: '/', ...connectHeaders },
    // RabbitMQ 3.10 ends clients with heart-beats under load, through a gate or not.
    heartbeatIncoming: 0, heartbeatOutgoing: 0, reconnectDelay: 0, ...options,
  });
  const connected = (one) => new Promise((resolve, reject) => {
    Object.assign(one, { onConnect: resolve, onStompError: (frame) => reject(new Error(frame.headers.message)) });
    one.activate();
  });
  const exactly = async (one, queue) => {
    const got = [];
    const all = later();
    one.subscribe(queue, (message) => { if (got.push(Number(message.body)) === NUMBERS.length) all.resolve(); });
    for (const number of NUMBERS) one.publish({ destination: queue, body: String(number) });
    await all.promise;
    assert.deepEqual(got, NUMBERS);
  };
  return {
    async 'stompjs is logged in by header and by passcode, and 1000 messages arrive in order'() {
      for (const [path, headers] of [
        ['/ws/rabbitmq', { login: 'anybody', Authorization: `Bearer ${token('alice')}` }],
        ['/ws/stomp', { passcode: token('alice') }],
      ]) {
        const one = client(path, headers);
        await connected(one);
        await exactly(one, `/queue/${path.split('/').pop()}`);
        await one.deactivate();
      }
    },
    async 'stompjs gets an ERROR frame for no, a bad, an expired token and for another name'() {
      for (const [headers, message] of [
        [{}, 'Unauthorized'],
        [{ passcode: 'nonsense' }, 'Unauthorized'],
        [{ passcode: expired('alice') }, 'Session expired'],
        [{ login: 'mallory', passcode: token('alice') }, 'Forbidden'],
      ]) {
        const one = client('/ws/stomp', headers);
        await assert.rejects(connected(one), new Error(message));
        await one.deactivate();
      }
    },
    async 'stompjs is closed when its token expires, and comes back with a fresh one'() {
      const tokens = [dying('alice'), token('alice')];
      const codes = [];
      const again = later();
      const one = client('/ws/rabbitmq', {}, {
        reconnectDelay: 10,
        beforeConnect: () => { one.connectHeaders.passcode = tokens.shift(); },
        onWebSocketClose: (event) => { codes.push(event.code); },
        onConnect: () => { if (tokens.length === 0) again.resolve(); },
      });
      one.activate();
      await again.promise;
      assert.deepEqual(codes, [4002]);
      await exactly(one, '/queue/again');
      await one.deactivate();
    },
  };
});
