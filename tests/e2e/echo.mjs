// An echo server for Autobahn: npm ws without the limits that would decide cases
// by themselves. Prints its port.

import { WebSocketServer } from "ws";

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  perMessageDeflate: true,
  maxPayload: 0,
  maxFragments: 0,
  maxBufferedChunks: 0,
});
server.on("connection", (socket) => {
  socket.on("error", () => {}); // the cases that break the protocol
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
});
server.on("listening", () => console.log(server.address().port));
