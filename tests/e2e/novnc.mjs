// noVNC in Chromium: node novnc.mjs CASE, a JSON object: gate (ws://HOST:PORT/PATH), good and
// bad (tokens). Prints one line a check.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, extname, join, normalize } from "node:path";

import { chromium } from "playwright-core";

const { gate, good, bad } = JSON.parse(process.argv[2]);
const library = dirname(dirname(createRequire(import.meta.url).resolve("@novnc/novnc")));
let failed = false;

function check(what, holds, detail = "") {
  failed ||= !holds;
  console.log(`${holds ? "ok" : "FAILED"} ${what} ${holds ? "" : detail}`);
}

const types = { ".js": "text/javascript", ".html": "text/html" };
const pages = createServer(async (request, response) => {
  if (request.url === "/") {
    response.setHeader("Content-Type", "text/html");
    return response.end("<!doctype html><title>noVNC</title><div id=screen></div>");
  }
  try {
    const path = join(library, normalize(request.url));
    response.setHeader("Content-Type", types[extname(path)] ?? "text/plain");
    response.end(await readFile(path));
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((ready) => pages.listen(0, "127.0.0.1", ready));

// Evaluated in the page: what becomes of a session.
async function session([url, core]) {
  const { default: RFB } = await import(core);
  const closes = [];
  const Real = WebSocket;
  const socket = new Real(url, ["binary"]);
  socket.addEventListener("close", (event) => closes.push([event.code, event.reason]));
  const rfb = new RFB(document.getElementById("screen"), socket, {});
  const first = await new Promise((done) => {
    rfb.addEventListener("connect", () => done("connect"));
    rfb.addEventListener("disconnect", (event) => done(`disconnect ${event.detail.clean}`));
    setTimeout(() => done("nothing"), 10_000);
  });
  let size = null;
  if (first === "connect") {
    const canvas = document.querySelector("#screen canvas");
    size = [canvas.width, canvas.height];
    const ended = new Promise((done) => rfb.addEventListener("disconnect", done));
    rfb.sendKey(0x61, "KeyA");
    rfb.disconnect();
    await ended;
  }
  await new Promise((done) => setTimeout(done, 300));
  return { first, size, closes, protocol: socket.protocol };
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${pages.address().port}/`);
  const core = "/core/rfb.js";
  const admitted = await page.evaluate(session, [`${gate}?token=${good}`, core]);
  check("noVNC connects", admitted.first === "connect", JSON.stringify(admitted));
  check("it sees the screen", `${admitted.size}` === "320,200", JSON.stringify(admitted));
  check("the subprotocol is echoed", admitted.protocol === "binary", admitted.protocol);
  const refused = await page.evaluate(session, [`${gate}?token=${bad}`, core]);
  check("a forged token is told why", `${refused.closes}` === "4001,Unauthorized", JSON.stringify(refused));
} finally {
  await browser.close();
  pages.close();
}
process.exit(failed ? 1 : 0);
