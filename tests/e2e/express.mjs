// An Express application that logs its users in: node express.mjs redis URL SECRET... keeps
// sessions in Redis (express-session, connect-redis), postgres URL SECRET... in PostgreSQL
// (connect-pg-simple, which makes its table), cookie SECRET... in cookies (cookie-session). Prints {"port": …} on 127.0.0.1; ends with its input.
import express from "express";
import session from "express-session";
import cookieSession from "cookie-session";
import connectPgSimple from "connect-pg-simple";
import { RedisStore } from "connect-redis";
import { createClient } from "redis";

const [kind, ...rest] = process.argv.slice(2);
const app = express();
app.use(express.urlencoded({ extended: false }));

const stored = kind !== "cookie";
if (stored) {
  const [url, ...secret] = rest;
  const store = await (kind === "redis" ? inRedis(url) : inPostgres(url));
  app.use(session({ store, secret, resave: false, saveUninitialized: false }));
} else {
  app.use(cookieSession({ name: "session", keys: rest, maxAge: 24 * 60 * 60 * 1000 }));
}

async function inRedis(url) {
  const client = createClient({ url });
  client.on("error", () => {});
  await client.connect();
  return new RedisStore({ client });
}

function inPostgres(conString) {
  const Store = connectPgSimple(session);
  return new Store({ conString, createTableIfMissing: true, ttl: 24 * 60 * 60 });
}

app.get("/", (request, response) => response.send("hello"));

app.post("/login", (request, response, next) => {
  const user = { user: request.body.user };
  if (stored) {
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
  if (stored) {
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
