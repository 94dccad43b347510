// A real OpenID provider, npm oidc-provider: node oidc.mjs [--host ADDRESS]
//   [--path /realms/demo] [--slash] [--down] [--tls CERT KEY]
//
// Prints one line of JSON, { issuer, control }: the issuer, and the URL of what
// only tests have. There:
//   POST /rotate?drop=1   a new signing key; drop: the old one is gone from the set
//   POST /down, /up       closes the provider's port and its connections; opens it again
//   GET  /requests        how often each path was asked for, as JSON
//   GET  /token?resource= a token by client credentials; without resource an opaque one
//   GET  /login?user=&resource=   tokens by a login with authorization code and PKCE, the way a
//                         browser does it: oidc-login.mjs; resource: urn:chat (a JWT for chat)
//                         or urn:opaque:chat (one that says nothing by itself)
//   POST /revoke?token=   ends a token of a login
//   POST /backchannel?uri=&session=1   where the browser's client wants to hear of logouts;
//                         with session: of which session, not only of whom
//   POST /logout?user=    the last login of that user logs out, as a browser does it: what the
//                         client was told, and how it answered
// Ends when its standard input does. --down: begins closed.

import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";

import { Provider } from "oidc-provider";

import { login, logout } from "./oidc-login.mjs";

const flag = (name) => process.argv.includes(name);
const option = (name, at = 1) => process.argv[process.argv.indexOf(name) + at];

const host = flag("--host") ? option("--host") : "127.0.0.1";
const path = flag("--path") ? option("--path") : "";
const tls = flag("--tls") && { cert: readFileSync(option("--tls")), key: readFileSync(option("--tls", 2)) };

export const SERVICE = { id: "service", secret: "canary-client-secret-of-the-service-0001" };
// Who may ask about tokens; of ids and secrets everything but letters is encoded.
const GATES = [
  { id: "the gate/1", secret: "canary: a+secret&of%the=gate", method: "client_secret_basic" },
  { id: "the gate/2", secret: "canary: a+secret&of%the=gate", method: "client_secret_post" },
];
export const BROWSER = { id: "browser", redirect: "http://127.0.0.1:9/callback" };

// Who logs in has these, by the name after the last "|".
const ROLES = { alice: ["member"], mallory: [] };

const signing = (serial) => {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), kid: `key-${serial}`, use: "sig", alg: "RS256" };
};

// As providers do: a key of another kind in the same set.
const elliptic = (() => {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...privateKey.export({ format: "jwk" }), kid: "elliptic", use: "sig", alg: "ES256" };
})();

let serial = 1;
let keys = [signing(serial)];
let callback;
let backchannel = {};

// The browsers of those who have logged in, and how the client took the last logout.
const jars = {};
let told;

function configure(issuer) {
  const provider = new Provider(issuer, {
    jwks: { keys: [...keys, elliptic] },
    clients: [
      {
        client_id: SERVICE.id,
        client_secret: SERVICE.secret,
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      },
      ...GATES.map(({ id, secret, method }) => ({
        client_id: id,
        client_secret: secret,
        token_endpoint_auth_method: method,
        grant_types: [],
        redirect_uris: [],
        response_types: [],
      })),
      {
        client_id: BROWSER.id,
        token_endpoint_auth_method: "none",
        redirect_uris: [BROWSER.redirect],
        grant_types: ["authorization_code"],
        ...backchannel,
      },
    ],
    cookies: { keys: ["a key of the cookies of the provider"] },
    ttl: { ClientCredentials: 600, AccessToken: 600 },
    claims: { openid: ["sub"], profile: ["name"] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: id }) }),
    // The shapes of Keycloak and of Auth0 at once.
    extraTokenClaims: (context, token) => {
      const roles = ROLES[String(token.accountId ?? "").split("|").at(-1)] ?? ["member"];
      // As Keycloak does: the session that the provider will say has ended.
      const sid = context.oidc.entities.AuthorizationCode?.sid;
      return {
        ...(sid && { sid }),
        azp: token.clientId,
        preferred_username: token.accountId,
        realm_access: { roles: ["offline_access", ...roles] },
        "https://chat.example.com/roles": roles,
      };
    },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      backchannelLogout: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        // urn:chat → a JWT whose aud is chat; urn:opaque:chat → an opaque one.
        getResourceServerInfo: (_, resource) => ({
          scope: "talk",
          audience: resource.replace(/^urn:(opaque:)?/, ""),
          accessTokenFormat: resource.startsWith("urn:opaque:") ? "opaque" : "jwt",
          jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
  });
  provider.on("backchannel.success", () => (told = "done"));
  provider.on("backchannel.error", (_, error) => (told = String(error.message)));
  callback = provider.callback();
}

// ---- the provider's own server -------------------------------------------------

const requests = {};
const sockets = new Set();

function answer(request, response) {
  const at = request.url.split("?")[0];
  requests[at] = (requests[at] ?? 0) + 1;
  if (!request.url.startsWith(path)) {
    response.writeHead(404).end();
    return;
  }
  request.originalUrl = request.url;
  request.url = request.url.slice(path.length) || "/";
  callback(request, response);
}

const server = tls ? createTlsServer(tls, answer) : createServer(answer);
server.on("connection", (socket) => {
  sockets.add(socket);
  socket.on("close", () => sockets.delete(socket));
});
const up = (port) =>
  new Promise((resolve, reject) => server.once("error", reject).listen(port, host, resolve));
const down = () =>
  new Promise((resolve) => {
    server.close(resolve);
    sockets.forEach((socket) => socket.destroy());
  });

await up(0);
const { port } = server.address();
const name = tls ? "localhost" : host;
const issuer = `${tls ? "https" : "http"}://${name}:${port}${path}${flag("--slash") ? "/" : ""}`;
configure(issuer);
if (flag("--down")) await down();

// ---- what only tests have ------------------------------------------------------

async function token(resource) {
  const form = new URLSearchParams({ grant_type: "client_credentials" });
  if (resource) form.set("resource", resource);
  const basic = Buffer.from(`${SERVICE.id}:${SERVICE.secret}`).toString("base64");
  const answer = await fetch(`${issuer.replace(/\/$/, "")}/token`, {
    method: "POST",
    headers: { authorization: `Basic ${basic}` },
    body: form,
  });
  return answer.json();
}

async function revoke(token) {
  const answer = await fetch(`${issuer.replace(/\/$/, "")}/token/revocation`, {
    method: "POST",
    body: new URLSearchParams({ token, client_id: BROWSER.id }),
  });
  if (!answer.ok) throw new Error(await answer.text());
  return {};
}

const control = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://control");
  const reply = (status, body) => {
    const text = JSON.stringify(body);
    response.writeHead(status, { "content-length": Buffer.byteLength(text) }).end(text);
  };
  try {
    switch (pathname) {
      case "/rotate":
        keys = [signing((serial += 1)), ...(searchParams.has("drop") ? [] : keys)];
        configure(issuer);
        return reply(200, { kid: keys[0].kid });
      case "/down":
        await down();
        return reply(200, {});
      case "/up":
        await up(port);
        return reply(200, {});
      case "/requests":
        return reply(200, requests);
      case "/token":
        return reply(200, await token(searchParams.get("resource")));
      case "/login": {
        const user = searchParams.get("user");
        const { jar, tokens } = await login(
          issuer,
          BROWSER,
          user,
          searchParams.get("resource") ?? "urn:chat",
        );
        jars[user] = jar;
        return reply(200, tokens);
      }
      case "/backchannel":
        backchannel = {
          backchannel_logout_uri: searchParams.get("uri"),
          backchannel_logout_session_required: searchParams.has("session"),
        };
        configure(issuer);
        return reply(200, {});
      case "/logout":
        told = "nothing";
        await logout(issuer, jars[searchParams.get("user")]);
        return reply(200, { told });
      case "/revoke":
        return reply(200, await revoke(searchParams.get("token")));
      default:
        return reply(404, {});
    }
  } catch (error) {
    reply(500, { error: String(error.stack) });
  }
});
await new Promise((resolve) => control.listen(0, "127.0.0.1", resolve));
console.log(JSON.stringify({ issuer, control: `http://127.0.0.1:${control.address().port}` }));

// Who started it may not listen to the remarks of its pages.
process.stdout.on("error", () => {});
process.stdin.resume().on("end", () => process.exit(0));
