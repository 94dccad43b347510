// What oauth2-proxy says on /oauth2/auth, and its login by password file; stands in
// for it, since no package registry has its binary. Status and headers are those of
// its source (oauthproxy.go: AuthenticateOnly, addHeadersForProxying, prepareNoCache).
// With --reverse-proxy --set-xauthrequest. Prints its port.

import { randomBytes } from "node:crypto";

import express from "express";

const sessions = new Map();
const app = express();
app.disable("x-powered-by");
app.use(express.urlencoded({ extended: false }));
app.use("/oauth2", (_, response, next) => {
  response.set({
    Expires: "Thu, 01 Jan 1970 00:00:00 UTC",
    "Cache-Control": "no-cache, no-store, must-revalidate, max-age=0",
    "X-Accel-Expires": "0",
  });
  next();
});

app.post("/oauth2/sign_in", ({ body }, response) => {
  const ticket = randomBytes(32).toString("base64url");
  sessions.set(ticket, body.username);
  response.cookie("_oauth2_proxy", ticket, { httpOnly: true, path: "/" }).redirect(302, "/");
});

app.get("/oauth2/auth", (request, response) => {
  const ticket = /(?:^|; )_oauth2_proxy=([^;]*)/.exec(request.get("cookie") ?? "")?.[1];
  const user = sessions.get(ticket);
  // http.Error and WriteHeader of Go.
  if (!user) return response.status(401).type("text/plain").send("Unauthorized\n");
  response.set({ "X-Auth-Request-User": user, "X-Auth-Request-Email": `${user}@example.com` });
  response.set("GAP-Auth", `${user}@example.com`).status(202).end();
});

const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume().on("end", () => process.exit(0));
