// What the real clients and servers of each protocol share: a script starts its
// servers, prints { port in the example: port here } as one line of JSON, reads
// { gate, secret } as another, plays its cases, and says how many of them passed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import readline from 'node:readline';

export const MESSAGES = 1000;
export const PAGE = '<!doctype html><title>A page</title>';
export const NUMBERS = Array.from({ length: MESSAGES }, (_, number) => number);

export function within(what, promise, ms = 20_000) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`late: ${what}`)), ms).unref());
  return Promise.race([promise, late]);
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// A promise with its own resolve.
export function later() {
  let resolve;
  const promise = new Promise((done) => { resolve = done; });
  return { promise, resolve };
}

export async function listen(server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server.address().port;
}

export async function freePort() {
  const server = net.createServer();
  const port = await listen(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export function directory() {
  const path = mkdtempSync(join(tmpdir(), 'sockgate-'));
  process.on('exit', () => rmSync(path, { recursive: true, force: true }));
  return path;
}

export function file(path, name, text) {
  writeFileSync(join(path, name), text);
  return join(path, name);
}

// A server of its own; what it prints is in `printed`.
export function daemon(command, args, environment = {}) {
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin`, ...environment };
  const child = spawn(command, args, { env, detached: true });
  const told = { child, printed: '', ended: once(child, 'exit') };
  const note = (data) => { told.printed += data; };
  child.stdout.on('data', note);
  child.stderr.on('data', note);
  process.on('exit', () => {
    // The whole group: some servers are scripts around the real one.
    try { process.kill(-child.pid, 'SIGKILL'); } catch { /* it is gone */ }
  });
  return told;
}

// Waits until something listens on `port`.
export async function listening(port, told) {
  for (let tries = 0; tries < 1200; tries += 1) {
    const socket = net.connect(port, '127.0.0.1');
    const open = await new Promise((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    });
    socket.destroy();
    if (open) return port;
    if (told?.child.exitCode !== null && told?.child.exitCode !== undefined) break;
    await sleep(50);
  }
  throw new Error(`nothing listens: ${told?.printed}`);
}

let secret = '';

// A token of `subject` that ends in so many seconds.
export function token(subject, seconds = 600, claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + seconds;
  const head = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: subject, exp, ...claims })}`;
  return `${head}.${createHmac('sha256', secret).update(head).digest('base64url')}`;
}

// One that the gate takes for two seconds more: it allows 30 s of leeway.
export const dying = (subject) => token(subject, -28);
export const expired = (subject) => token(subject, -600);

export async function play(servers, cases) {
  process.on('unhandledRejection', (error) => { console.log(`failed: ${error?.stack ?? error}`); process.exit(1); });
  const ports = {};
  await Promise.all(Object.entries(servers).map(async ([port, start]) => { ports[port] = await start(); }));
  console.log(JSON.stringify(ports));
  const input = readline.createInterface({ input: process.stdin });
  input.once('close', () => process.exit(1));
  const [line] = await once(input, 'line');
  input.removeAllListeners('close');
  const told = JSON.parse(line);
  secret = told.secret;
  const wanted = Object.entries(cases(told.gate)).filter(([name]) => name.includes(process.argv[2] ?? ''));
  assert.ok(wanted.length > 0, 'no such case');
  let passed = 0;
  for (const [name, run] of wanted) {
    const started = Date.now();
    try {
      await within(name, run(), 30_000);
      passed += 1;
      console.log(`ok ${name} (${Date.now() - started} ms)`);
    } catch (error) {
      console.log(`failed ${name}: ${error?.stack ?? error}`);
    }
  }
  console.log(`passed ${passed} of ${wanted.length}`);
  process.exit(passed === wanted.length ? 0 : 1);
}
