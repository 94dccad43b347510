// A tunnel for programs that speak TCP: node tunnel.mjs URL TOKEN. Each connection to the
// port that it prints as {"port": …} is a WebSocket to URL; ends with its input.
import { createServer } from "node:net";

import { WebSocket } from "ws";

const [url, token] = process.argv.slice(2);

const server = createServer({ allowHalfOpen: true }, (connection) => {
  const headers = { Authorization: `Bearer ${token}` };
  const socket = new WebSocket(url, "binary", { headers, perMessageDeflate: false });
  connection.pause();
  connection.on("error", () => socket.terminate());
  socket.on("error", () => connection.destroy());
  socket.on("open", () => {
    if (socket.protocol !== "binary") throw new Error(`the subprotocol is ${socket.protocol}`);
    connection.resume();
  });
  connection.on("data", (data) => socket.send(data));
  connection.on("end", () => socket.close(1000));
  socket.on("message", (data) => connection.write(data));
  socket.on("close", () => connection.end());
});

server.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ port: server.address().port }));
});
process.stdin.resume();
process.stdin.on("end", () => process.exit());
