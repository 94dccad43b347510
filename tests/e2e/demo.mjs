// The demo, as a person would use it: node demo.mjs http://127.0.0.1:8080/ [screenshot directory]
//
// Exits 0 when every line says ok. Chromium is Debian's; CHROMIUM names another.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

const [url, shots] = process.argv.slice(2);
if (!url) {
  console.error("usage: node demo.mjs URL [SCREENSHOT_DIRECTORY]");
  process.exit(2);
}

const PATIENCE = 15_000;
// What a JWT looks like, or enough of one to be a leak.
const TOKEN = /eyJ[\w-]{10,}/;

let passed = 0;
const failures = [];

function check(what, holds, detail = "") {
  if (holds) {
    passed += 1;
    console.log(`ok      ${what}`);
  } else {
    failures.push(what);
    console.log(`FAILED  ${what}${detail ? `: ${detail}` : ""}`);
  }
}

// One step of the story; a step that throws fails and the story goes on.
async function step(what, act) {
  try {
    await act();
  } catch (error) {
    check(what, false, String(error.message ?? error).split("\n").slice(0, 6).join(" | "));
  }
}

// A browser window of somebody with cookies of their own.
class Person {
  static async arrive(browser) {
    const context = await browser.newContext({ viewport: { width: 1440, height: 1180 } });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.goto(url);
    return Object.assign(new Person(), { context, page, errors });
  }

  async logIn(id, { ttl = "", password = null } = {}) {
    await this.page.locator(`input[name=ttl][value="${ttl}"]`).check({ force: true });
    if (password === null) {
      await this.page.locator(`[data-person=${id}]`).click();
    } else {
      await this.page.locator("#name").fill(id);
      await this.page.locator("#password").fill(password);
      await this.page.getByRole("button", { name: "Log in" }).click();
    }
  }

  async logOut() {
    await this.page.locator("#logout").click();
    await this.page.locator("#login").waitFor();
  }

  connect(way) {
    return this.page.locator(`[data-way=${way}]`).click();
  }

  disconnect() {
    return this.page.locator("#disconnect").click();
  }

  open() {
    return this.page.locator("body[data-state=open]").waitFor();
  }

  closed(code) {
    return this.page.locator(`body[data-state=closed][data-code="${code}"]`).waitFor();
  }

  shows(id, text) {
    return this.page.getByTestId(id).filter({ hasText: text }).waitFor();
  }

  // The text of a frame that went over the wire.
  frame(text) {
    return this.page.locator("#wire li span", { hasText: text }).first().waitFor();
  }

  // What sockgate logged of sockets, the newest first, parsed.
  async log() {
    const lines = await this.page.locator("#log li[data-socket] pre").allTextContents();
    return lines.map((line) => JSON.parse(line));
  }

  // Waits for a log line that `matches`, and gives it back.
  async logged(matches) {
    const end = Date.now() + PATIENCE;
    for (;;) {
      const line = (await this.log()).find(matches);
      if (line || Date.now() > end) return line;
      await this.page.waitForTimeout(50);
    }
  }

  async shot(name) {
    if (shots) await this.page.screenshot({ path: join(shots, `${name}.png`) });
  }
}

async function story(browser) {
  const ada = await Person.arrive(browser);
  const grace = await Person.arrive(browser);

  await step("without a cookie the socket is closed with 4001", async () => {
    await ada.connect("cookie");
    await ada.closed(4001);
    check("without a cookie the socket is closed with 4001", true);
    await ada.frame('{"type":"error","error":"Unauthorized","code":4001}');
    check("the refusal is readable: an error message comes before the Close", true);
    const line = await ada.logged((line) => line.outcome === "refused");
    check("the gate log says refused", line !== undefined);
    await ada.shot("1-unauthorized");
  });

  await step("a wrong password is refused", async () => {
    await ada.logIn("ada", { password: "byron" });
    await ada.shows("note", "Wrong name or password");
    check("a wrong password is refused", true);
  });

  await step("a person logs in over REST", async () => {
    await ada.logIn("ada", { password: "lovelace" });
    await ada.shows("who", "Ada Lovelace");
    const [cookie] = (await ada.context.cookies()).filter((cookie) => cookie.name === "session");
    check("a person logs in over REST", cookie !== undefined);
    check("the session cookie is HttpOnly and SameSite=Lax", cookie?.httpOnly && cookie?.sameSite === "Lax");
  });

  await step("the cookie opens the socket", async () => {
    await ada.connect("cookie");
    await ada.open();
    await ada.frame('{"type":"authenticated","user":{"id":"ada","name":"Ada Lovelace"}}');
    check("the cookie opens the socket, and the page is told who it is", true);
    await ada.shows("badge", "Open");
    await ada.page.locator(".task").first().waitFor();
    check("the board came through the gate", true);
    const line = await ada.logged((line) => line.outcome === "admitted" && line.subject === "ada");
    check("the gate log names the cookie and the subject", line?.credential?.includes("cookie"), JSON.stringify(line));
  });

  await step("another user's typing arrives with the verified name", async () => {
    await grace.logIn("grace");
    await grace.shows("who", "Grace Hopper");
    await grace.connect("cookie");
    await grace.open();
    await ada.page.locator('#crew [title="Grace Hopper"]').waitFor();
    check("presence shows the other person", true);
    await grace.page.getByTestId("add-doing").pressSequentially("Find the moth", { delay: 20 });
    await ada.frame('{"type":"user_typing","user":{"id":"grace","name":"Grace Hopper"}}');
    await ada.shows("typing", "Grace Hopper is typing");
    check("another user's typing arrives with the verified name", true);
    await ada.shot("2-typing");
    await grace.page.getByTestId("add-doing").press("Enter");
    const task = ada.page.locator("#tasks-doing .task", { hasText: "Find the moth" });
    await task.filter({ hasText: "Grace Hopper" }).waitFor();
    check("her task appears under her name", true);
    await task.getByRole("button", { name: "Move to Done" }).click();
    await grace.page.locator("#tasks-done .task", { hasText: "Find the moth" }).waitFor();
    check("a move is seen by the other person", true);
  });

  await step("a token in the URL opens the socket", async () => {
    await grace.disconnect();
    await grace.closed(1000);
    await ada.page.locator('#crew [title="Grace Hopper"]').waitFor({ state: "detached" });
    check("presence forgets who left", true);
    await grace.connect("query");
    await grace.open();
    const cookies = await grace.context.cookies();
    check("a token in the URL opens the socket, without a cookie", !cookies.some((cookie) => cookie.name === "session" && cookie.value));
    const line = await grace.logged((line) => line.subject === "grace" && /token=REDACTED/.test(line.url ?? ""));
    check("its log line has REDACTED where the token was", line !== undefined && line.credential?.includes("query"), JSON.stringify(line));
    await grace.shot("3-url-token");
  });

  await step("a first message opens the socket", async () => {
    await grace.disconnect();
    await grace.closed(1000);
    await grace.connect("message");
    await grace.shows("note", "Log in first");
    check("a token is only given to a session", true);
    await grace.logIn("grace");
    await grace.shows("who", "Grace Hopper");
    await grace.connect("message");
    await grace.open();
    await grace.frame('{"type":"authenticated","user":{"id":"grace","name":"Grace Hopper"}}');
    check("a first message opens the socket", true);
    const line = await grace.logged((line) => line.subject === "grace" && line.credential?.includes("message"));
    check("its log line names the message", line !== undefined);
    await grace.shot("4-first-message");
    await grace.disconnect();
    await grace.closed(1000);
  });

  await step("a suspended user is closed with 4003", async () => {
    const mallory = await Person.arrive(browser);
    await mallory.logIn("mallory");
    await mallory.shows("who", "Mallory Mallet");
    await mallory.connect("cookie");
    await mallory.closed(4003);
    check("a suspended user is closed with 4003", true);
    await mallory.frame('{"type":"error","error":"Forbidden","code":4003}');
    await mallory.shows("verdict", "4003 · Forbidden");
    const line = await mallory.logged((line) => line.reason === "forbidden");
    check("the gate log says why", line?.outcome === "refused", JSON.stringify(line));
    await mallory.shot("5-forbidden");
    await finish(mallory, "mallory");
  });

  await step("the socket ends with its login", async () => {
    await grace.logIn("grace", { ttl: "10" });
    await grace.shows("who", "Grace Hopper");
    await grace.connect("cookie");
    await grace.open();
    await grace.closed(4002);
    check("the live socket is closed with 4002 when its login ends", true);
    await grace.shows("verdict", "4002 · Session expired");
    const line = await grace.logged((line) => line.code === 4002);
    check("the gate log says that sockgate closed it", line?.initiator === "sockgate", JSON.stringify(line));
    await grace.connect("cookie");
    await grace.closed(4002);
    check("the expired cookie is refused with 4002", true);
    await grace.shot("6-expired");
    check("nobody else was disturbed", (await ada.page.locator("body").getAttribute("data-state")) === "open");
  });

  await step("logging out", async () => {
    await ada.disconnect();
    await ada.closed(1000);
    await ada.logOut();
    await ada.connect("cookie");
    await ada.closed(4001);
    check("after logging out the socket is closed with 4001 again", true);
  });

  await ada.page.emulateMedia({ colorScheme: "dark" });
  await ada.shot("7-dark");
  await finish(ada, "ada");
  await finish(grace, "grace");
}

// What must hold on every page at its end.
async function finish(person, name) {
  await step(`${name}'s page at its end`, async () => {
    await person.page.locator("#all").check();
    const log = await person.page.getByTestId("log").textContent();
    check(`${name}'s gate log has lines`, log.length > 100);
    check(`${name}'s gate log holds no token`, !TOKEN.test(log), TOKEN.exec(log)?.[0]);
    const page = await person.page.locator("body").innerText();
    check(`${name}'s page shows no token`, !TOKEN.test(page), TOKEN.exec(page)?.[0]);
    check(`${name}'s page threw nothing`, person.errors.length === 0, person.errors.join(" | "));
    await person.context.close();
  });
}

const profile = await mkdtemp(join(tmpdir(), "sockgate-demo-"));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  env: { ...process.env, HOME: profile },
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  await story(browser);
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failures.length} failed`);
process.exit(failures.length || !passed ? 1 : 0);
