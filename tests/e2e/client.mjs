// A client by npm ws, through the gate: node client.mjs '{"gate": "127.0.0.1:1", "tokens": {...}}'
//
// The same story as client.py; tests/e2e/PEERS.md says what the server does.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";

import WebSocket from "ws";

const { gate, tokens } = JSON.parse(process.argv[2]);
const PATIENCE = 20_000;
const SIZES = [0, 1, 125, 126, 127, 4095, 65_535, 65_536, 65_537, 1_000_003, 3 << 20];
const BEARER = { authorization: `Bearer ${tokens.good}` };
const AUTHENTICATED = { type: "authenticated", user: "ada" };

let passed = 0;
const failures = [];

// One check of the story; one that throws, or takes too long, fails.
async function check(what, act) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("took too long")), PATIENCE);
  });
  try {
    await Promise.race([act(), late]);
    passed += 1;
    console.log(`ok      ${what}`);
  } catch (error) {
    failures.push(what);
    console.log(`FAILED  ${what}: ${error.message}`);
  }
  clearTimeout(timer);
}

class Socket {
  // Resolves when the gate has answered 101.
  static open(path, { protocols = [], headers = {}, deflate = true } = {}) {
    const ws = new WebSocket(`ws://${gate}${path}`, protocols, { headers, perMessageDeflate: deflate, maxPayload: 0 });
    const socket = Object.assign(new Socket(), { ws, messages: [], waiting: [] });
    ws.on("message", (data, binary) => {
      const message = binary ? data : String(data);
      const next = socket.waiting.shift();
      if (next) next(message);
      else socket.messages.push(message);
    });
    socket.closed = new Promise((resolve) => ws.on("close", (code, reason) => resolve([code, String(reason)])));
    return new Promise((resolve, reject) => {
      ws.on("open", () => resolve(socket));
      ws.on("error", reject);
      ws.on("unexpected-response", (_, response) => {
        let body = "";
        response.on("data", (part) => (body += part));
        response.on("end", () => reject(Object.assign(new Error(`HTTP ${response.statusCode}`), { status: response.statusCode, body })));
      });
    });
  }

  next() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  async ask(text) {
    this.ws.send(text);
    return JSON.parse(await this.next());
  }

  async end() {
    this.ws.close(1000);
    assert.equal((await this.closed)[0], 1000);
  }
}

async function refused(path, options) {
  try {
    await Socket.open(path, options);
  } catch (error) {
    return error;
  }
  throw new Error("was not refused");
}

// What the server was told: who it is, and nothing of the credential.
function told(who, subprotocol) {
  assert.equal(who.headers["x-forwarded-user"], "ada");
  assert.equal(who.subprotocol, subprotocol);
  for (const [kind, token] of Object.entries(tokens)) {
    for (const form of [token, Buffer.from(token).toString("base64url")]) {
      assert.ok(!JSON.stringify(who).includes(form), `the ${kind} token went past the gate`);
    }
  }
}

const LOGINS = {
  "a cookie": { path: "/deflate/a?tag=1", options: { headers: { cookie: `theme=dark; session=${tokens.good}` } } },
  "a query parameter": { path: `/deflate/a?tag=1&token=${tokens.good}`, options: {} },
  "an Authorization header": { path: "/deflate/a?tag=1", options: { headers: BEARER } },
  "a subprotocol": {
    path: "/deflate/a?tag=1",
    options: { protocols: ["chat.v1", `bearer.b64.${Buffer.from(tokens.good).toString("base64url")}`] },
    subprotocol: "chat.v1",
  },
  "a pair of subprotocols": { path: "/deflate/a?tag=1", options: { protocols: ["bearer", tokens.good, "chat.v1"] }, subprotocol: "chat.v1" },
};
for (const [name, { path, options, subprotocol = "" }] of Object.entries(LOGINS)) {
  await check(`${name} logs in, and stays at the gate`, async () => {
    const socket = await Socket.open(path, options);
    assert.equal(socket.ws.protocol, subprotocol);
    const who = await socket.ask("!who");
    told(who, subprotocol);
    assert.equal(who.url, "/deflate/a?tag=1");
    if (options.headers?.cookie) assert.equal(who.headers.cookie, "theme=dark");
    await socket.end();
  });
}

await check("a pair alone is answered with its marker, never with the token", async () => {
  const socket = await Socket.open("/deflate/a", { protocols: ["bearer", tokens.good] });
  assert.equal(socket.ws.protocol, "bearer");
  told(await socket.ask("!who"), "");
  await socket.end();
});

await check("a first message logs in, and is answered", async () => {
  const socket = await Socket.open("/message/a");
  assert.equal(socket.ws.extensions, "");
  socket.ws.send(JSON.stringify({ type: "auth", token: tokens.good }));
  assert.deepEqual(JSON.parse(await socket.next()), AUTHENTICATED);
  told(await socket.ask("!who"), "");
  await socket.end();
});

await check("a first message in fragments logs in, too", async () => {
  const socket = await Socket.open("/message/a");
  const text = JSON.stringify({ type: "auth", token: tokens.good });
  socket.ws.send(text.slice(0, 20), { fin: false });
  socket.ws.ping("between");
  socket.ws.send(text.slice(20), { fin: true });
  assert.deepEqual(JSON.parse(await socket.next()), AUTHENTICATED);
  await socket.end();
});

const REFUSALS = [
  ["no credential", "/deflate/a", {}, 4001, "Unauthorized"],
  ["a forged token", `/deflate/a?token=${tokens.forged}`, {}, 4001, "Unauthorized"],
  ["an expired token", `/deflate/a?token=${tokens.expired}`, {}, 4002, "Session expired"],
  ["a suspended user", `/deflate/a?token=${tokens.suspended}`, {}, 4003, "Forbidden"],
  ["a server that is down", "/down/a", { headers: BEARER }, 1013, "Bad gateway"],
];
for (const [what, path, options, code, reason] of REFUSALS) {
  await check(`${what} is closed with ${code}, readably`, async () => {
    const socket = await Socket.open(path, options);
    assert.deepEqual(JSON.parse(await socket.next()), { type: "error", error: reason, code });
    assert.deepEqual(await socket.closed, [code, reason]);
  });
}

const FIRST_MESSAGES = [
  ["another first message", { type: "hello" }, 4001, "Unauthorized"],
  ["an expired first message", { type: "auth", token: tokens.expired }, 4002, "Session expired"],
  ["a suspended user's first message", { type: "auth", token: tokens.suspended }, 4003, "Forbidden"],
];
for (const [what, message, code, reason] of FIRST_MESSAGES) {
  await check(`${what} is closed with ${code}, readably`, async () => {
    const socket = await Socket.open("/message/a");
    socket.ws.send(JSON.stringify(message));
    assert.deepEqual(JSON.parse(await socket.next()), { type: "error", error: reason, code });
    assert.deepEqual(await socket.closed, [code, reason]);
  });
}

await check("reject: http refuses the upgrade itself", async () => {
  const { status, body } = await refused("/http/a", {});
  assert.equal(status, 401);
  assert.deepEqual(JSON.parse(body), { error: "Unauthorized" });
});

await check("another site's page is refused whatever it brings", async () => {
  const { status, body } = await refused("/deflate/a", { headers: { ...BEARER, origin: "https://evil.example" } });
  assert.equal(status, 403);
  assert.deepEqual(JSON.parse(body), { error: "Origin not allowed" });
});

const EXTENSIONS = [
  ["with permessage-deflate", "/deflate/a", true, "permessage-deflate"],
  ["without, since the client does not offer it", "/deflate/a", false, ""],
  ["without, since the server declines it", "/plain/a", true, ""],
];
for (const [how, path, deflate, extension] of EXTENSIONS) {
  await check(`messages of every size come back, ${how}`, async () => {
    const socket = await Socket.open(path, { headers: BEARER, deflate });
    assert.match(socket.ws.extensions, new RegExp(`^${extension}${extension ? "" : "$"}`));
    for (const size of SIZES) {
      const binary = randomBytes(size);
      socket.ws.send(binary);
      assert.ok(binary.equals(await socket.next()), `${size} random bytes`);
      const text = "äö€ 𝄞 text, ".repeat(size / 12 + 1).slice(0, size);
      socket.ws.send(text);
      assert.ok(text === (await socket.next()), `${size} characters`);
    }
    await socket.end();
  });

  await check(`1,000 messages come back exactly, ${how}`, async () => {
    const socket = await Socket.open(path, { headers: BEARER, deflate });
    const [sent, got] = [createHash("sha256"), createHash("sha256")];
    for (let n = 0; n < 1000; n += 1) {
      const message = n % 2 ? randomBytes((n * 7) % 3000) : `${n}: ${"x".repeat(n % 300)}`;
      sent.update(`${typeof message} ${message.length} `).update(message);
      socket.ws.send(message);
    }
    for (let n = 0; n < 1000; n += 1) {
      const message = await socket.next();
      got.update(`${typeof message} ${message.length} `).update(message);
    }
    assert.equal(got.digest("hex"), sent.digest("hex"));
    await socket.end();
  });

  await check(`a message in fragments comes back whole, ${how}`, async () => {
    const socket = await Socket.open(path, { headers: BEARER, deflate });
    for (const [part, fin] of [["one ", false], ["two ", false], ["three", true]]) socket.ws.send(part, { fin });
    assert.equal(await socket.next(), "one two three");
    await socket.end();
  });
}

await check("pings pass in both directions", async () => {
  const socket = await Socket.open("/deflate/a", { headers: BEARER });
  const pong = new Promise((resolve) => socket.ws.once("pong", (payload) => resolve(String(payload))));
  socket.ws.ping("from the client");
  assert.equal(await pong, "from the client");
  socket.ws.send("!ping from-the-server");
  assert.equal(await socket.next(), "pong from-the-server");
  await socket.end();
});

for (const [code, reason] of [[1000, "done"], [1001, ""], [3999, "käse"], [4321, "by the client"]]) {
  await check(`the client's close ${code} reaches the server`, async () => {
    const tag = `client-${code}`;
    const socket = await Socket.open(`/deflate/a?tag=${tag}`, { headers: BEARER });
    socket.ws.close(code, reason);
    assert.equal((await socket.closed)[0], code);
    const witness = await Socket.open("/deflate/a", { headers: BEARER });
    let seen = null;
    while (seen === null) seen = await witness.ask(`!closed ${tag}`);
    assert.deepEqual(seen, [code, reason]);
    await witness.end();
  });
  await check(`the server's close ${code} reaches the client`, async () => {
    const socket = await Socket.open("/deflate/a", { headers: BEARER });
    socket.ws.send(`!close ${code} ${reason}`);
    assert.deepEqual(await socket.closed, [code, reason]);
  });
}

await check("a server that vanishes is closed with 1013", async () => {
  const socket = await Socket.open("/deflate/a", { headers: BEARER });
  socket.ws.send("!vanish");
  assert.equal((await socket.closed)[0], 1013);
});

console.log(`${passed} passed, ${failures.length} failed`);
process.exit(failures.length || !passed ? 1 : 0);
