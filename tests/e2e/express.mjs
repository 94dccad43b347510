// An Express application that logs its users in: node express.mjs redis PORT HOST SECRET
// keeps sessions in Redis (express-session, connect-redis), node express.mjs cookie SECRET
// in cookies (cookie-session). Prints {"port": …} on 127.0.0.1; ends with its input.
import express from "express";
import session from "express-session";
import cookieSession from "cookie-session";
import { RedisStore } from "connect-redis";
import { createClient } from "redis";

const [kind, ...rest] = process.argv.slice(2);
const app = express();
app.use(express.urlencoded({ extended: false }));

if (kind === "redis") {
  const [url, ...secret] = rest;
  const client = createClient({ url });
  client.on("error", () => {});
  await client.connect();
  app.use(session({ store: new RedisStore({ client }), secret, resave: false, saveUninitialized: false }));
} else {
  app.use(cookieSession({ name: "session", keys: rest, maxAge: 24 * 60 * 60 * 1000 }));
}

app.get("/", (request, response) => response.send("hello"));

app.post("/login", (request, response, next) => {
  const user = { user: request.body.user };
  if (kind === "redis") {
    // As Passport does: a new id for a new login.
    request.session.regenerate((error) => {
      if (error) return next(error);
      request.session.passport = user;
      request.session.save((error) => (error ? next(error) : response.redirect(303, "/")));
    });
  } else {
    request.session.passport = user;
    request.session.ends = Date.now() + 60 * 60 * 1000;
    response.redirect(303, "/");
  }
});

app.post("/logout", (request, response, next) => {
  if (kind === "redis") {
    request.session.destroy((error) => (error ? next(error) : response.redirect(303, "/")));
  } else {
    request.session = null;
    response.redirect(303, "/");
  }
});

const server = app.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ port: server.address().port }));
});
process.stdin.resume();
process.stdin.on("end", () => process.exit());
