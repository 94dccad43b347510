// Logs in to an OpenID provider the way a browser does: redirects, cookies, the
// provider's own pages with their forms; then exchanges the code (RFC 6749 §4.1)
// with PKCE (RFC 7636). The provider is npm oidc-provider with its development
// pages: any name and password will do.

import { createHash, randomBytes } from "node:crypto";
import http from "node:http";
import https from "node:https";

// What `fetch` gives, and all cookies: Debian's Node 18 shows only one of them there.
function visit(url, { method = "GET", body, headers = {} } = {}) {
  const form = { "content-type": "application/x-www-form-urlencoded" };
  return new Promise((resolve, reject) => {
    const { request } = url.startsWith("https:") ? https : http;
    const asking = request(url, { method, headers: body ? { ...headers, ...form } : headers });
    asking.on("error", reject).on("response", async (response) => {
      let text = "";
      for await (const piece of response.setEncoding("utf8")) text += piece;
      const { statusCode: status, headers } = response;
      resolve({ status, location: headers.location, cookies: headers["set-cookie"] ?? [], text });
    });
    asking.end(body?.toString());
  });
}

// What a browser keeps: cookies with their path, of one host.
class Jar {
  #cookies = new Map();

  take(url, response) {
    for (const line of response.cookies) {
      const [pair, ...attributes] = line.split(";").map((part) => part.trim());
      const [name, value] = [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)];
      const attribute = (wanted) =>
        attributes.find((one) => one.toLowerCase().startsWith(`${wanted}=`))?.slice(wanted.length + 1);
      const path = attribute("path") ?? "/";
      const gone = value === "" || new Date(attribute("expires") ?? "9999-01-01") < new Date();
      if (gone) this.#cookies.delete(`${path} ${name}`);
      else this.#cookies.set(`${path} ${name}`, { path, pair });
    }
  }

  for(url) {
    const { pathname } = new URL(url);
    return [...this.#cookies.values()]
      .filter(({ path }) => pathname === path || pathname.startsWith(path.replace(/\/?$/, "/")))
      .map(({ pair }) => pair)
      .join("; ");
  }
}

export async function login(issuer, client, user, resource) {
  const jar = new Jar();
  const discovery = `${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`;
  const endpoints = JSON.parse((await visit(discovery)).text);
  const verifier = randomBytes(32).toString("base64url");
  const start = new URL(endpoints.authorization_endpoint);
  start.search = new URLSearchParams({
    client_id: client.id,
    redirect_uri: client.redirect,
    response_type: "code",
    scope: "openid talk",
    state: "there-and-back",
    code_challenge: createHash("sha256").update(verifier).digest("base64url"),
    code_challenge_method: "S256",
    resource,
  });

  // A page is a form to send, a redirect is followed, the client's own URL is the end.
  let url = start.href;
  let form;
  for (let step = 0; ; step += 1) {
    if (step > 20) throw new Error(`no end of redirects: ${url}`);
    const response = await visit(url, {
      method: form ? "POST" : "GET",
      body: form,
      headers: { cookie: jar.for(url) },
    });
    jar.take(url, response);
    form = undefined;
    const { status, location, text: page } = response;
    if (location?.startsWith(client.redirect)) {
      url = location;
      break;
    }
    if (location) {
      url = new URL(location, url).href;
      continue;
    }
    if (status !== 200) throw new Error(`${status} at ${url}: ${page}`);
    const action = /<form[^>]* action="([^"]+)"/.exec(page)?.[1];
    const prompt = /name="prompt" value="([^"]+)"/.exec(page)?.[1];
    if (!action || !prompt) throw new Error(`a page without a form at ${url}: ${page}`);
    url = new URL(action, url).href;
    form = new URLSearchParams({ prompt, login: user, password: "whatever" });
  }

  const back = new URL(url).searchParams;
  if (back.get("state") !== "there-and-back") throw new Error(`not our state: ${url}`);
  if (!back.get("code")) throw new Error(`no code: ${url}`);
  const exchange = await visit(endpoints.token_endpoint, {
    method: "POST",
    body: new URLSearchParams({
      grant_type: "authorization_code",
      client_id: client.id,
      code: back.get("code"),
      redirect_uri: client.redirect,
      code_verifier: verifier,
      resource,
    }),
  });
  return { jar, tokens: JSON.parse(exchange.text) };
}

// Logs the browser out whose cookies are in `jar` (OpenID Connect RP-Initiated Logout 1.0):
// the provider asks whether that is meant, and it is.
export async function logout(issuer, jar) {
  const discovery = `${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`;
  const { end_session_endpoint: url } = JSON.parse((await visit(discovery)).text);
  const asked = await visit(url, { headers: { cookie: jar.for(url) } });
  jar.take(url, asked);
  const page = asked.text;
  const action = /<form[^>]* action="([^"]+)"/.exec(page)?.[1];
  const xsrf = /name="xsrf" value="([^"]+)"/.exec(page)?.[1];
  if (!action || !xsrf) throw new Error(`${asked.status}, a page without a form: ${page}`);
  const there = new URL(action, url).href;
  const done = await visit(there, {
    method: "POST",
    body: new URLSearchParams({ xsrf, logout: "yes" }),
    headers: { cookie: jar.for(there) },
  });
  if (done.status !== 303) throw new Error(`${done.status}: ${done.text}`);
  jar.take(there, done);
}
