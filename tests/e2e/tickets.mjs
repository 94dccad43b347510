// Tickets in Chromium, as a page of another origin uses them:
//   node tickets.mjs CASE, a JSON object: page (a port that the policy's origins name), gate
//   (http://localhost:PORT), token, script (socket.js of the recipe). Prints one line a check.
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

const { page: port, gate, token, script } = JSON.parse(process.argv[2]);
let failed = false;

function check(what, holds, detail = "") {
  failed ||= !holds;
  console.log(`${holds ? "ok" : "FAILED"} ${what} ${holds ? "" : detail}`);
}

function serve(where) {
  const server = createServer((request, response) => {
    const isScript = request.url === "/socket.js";
    response.setHeader("Content-Type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : "<!doctype html><title>a page</title>");
  });
  return new Promise((ready) => server.listen(where, () => ready(server)));
}

// Evaluated in a page: a ticket by cookie, and what becomes of the socket.
async function byCookie(gate) {
  const { connect } = await import("/socket.js");
  const told = async (socket) => {
    socket.onopen = () => socket.send("hello");
    return new Promise((done) => {
      socket.onmessage = (event) => done(event.data);
      socket.onclose = (event) => done(event.code);
    });
  };
  try {
    const socket = await connect(gate);
    const first = await told(socket);
    return [first, await told(new WebSocket(socket.url))];
  } catch (error) {
    return error.name;
  }
}

// By header, which the browser asks for first.
async function byHeader([gate, token]) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const answer = await fetch(`${gate}/ticket`, { method: "POST", headers, body: "{}" });
  const refused = await fetch(`${gate}/ticket`, { method: "POST" });
  return [answer.status, (await answer.json()).ticket.slice(0, 4), refused.status, (await refused.json()).error];
}

const servers = [await serve(port), await serve(0)];
const foreign = servers[1].address().port;
const profile = await mkdtemp(join(tmpdir(), "sockgate-tickets-"));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  env: { ...process.env, HOME: profile },
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
try {
  const context = await browser.newContext();
  await context.addCookies([{ name: "session", value: token, url: gate, httpOnly: true }]);
  const page = await context.newPage();
  await page.goto(`http://localhost:${port}/`);
  const cookie = await page.evaluate(byCookie, gate);
  check("a cookie buys one socket", JSON.stringify(cookie) === '["hello",4001]', JSON.stringify(cookie));
  const header = await page.evaluate(byHeader, [gate, token]);
  const expected = '[200,"sgt_",401,"Unauthorized"]';
  check("a header buys a ticket after a preflight", JSON.stringify(header) === expected, JSON.stringify(header));
  const other = await context.newPage();
  await other.goto(`http://localhost:${foreign}/`);
  const refused = await other.evaluate(byCookie, gate);
  check("a foreign page reads nothing", refused === "TypeError", JSON.stringify(refused));
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
  servers.forEach((server) => server.close());
}
process.exit(failed ? 1 : 0);
