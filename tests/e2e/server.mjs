// A server that knows nothing about auth, by npm ws: node server.mjs [--no-deflate]
//
// Prints its port. Every message comes back as it was, but for those of
// tests/e2e/PEERS.md that begin with "!".

import { WebSocketServer } from "ws";

const closes = new Map();

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  perMessageDeflate: !process.argv.includes("--no-deflate"),
  maxPayload: 0,
});

server.on("connection", (socket, request) => {
  const tag = new URL(request.url, "ws://peer").searchParams.get("tag");
  socket.on("error", (error) => console.error(String(error)));
  socket.on("close", (code, reason) => closes.set(tag, [code, String(reason)]));
  socket.on("message", (data, binary) => {
    const [command, ...words] = binary ? [] : String(data.subarray(0, 256)).split(" ");
    switch (command) {
      case "!who":
        return socket.send(JSON.stringify(who(socket, request)));
      case "!closed":
        return socket.send(JSON.stringify(closes.get(words[0]) ?? null));
      case "!close":
        return socket.close(Number(words[0]), words.slice(1).join(" "));
      case "!vanish":
        return socket.terminate();
      case "!ping":
        socket.once("pong", (payload) => socket.send(`pong ${payload}`));
        return socket.ping(words[0]);
      default:
        return socket.send(data, { binary });
    }
  });
});
server.on("listening", () => console.log(server.address().port));

// What this server was told about its client.
function who(socket, request) {
  return {
    url: request.url,
    headers: request.headers,
    subprotocol: socket.protocol,
    extensions: socket.extensions,
  };
}
