"""A server that knows nothing about auth, by PyPI websockets: server.py [--no-deflate]

Prints its port. Every message comes back as it was, but for those of
tests/e2e/PEERS.md that begin with "!".
"""

import asyncio
import json
import sys
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

closes = {}


async def attend(socket):
    tag = parse_qs(urlsplit(socket.request.path).query).get("tag", [None])[0]
    try:
        async for message in socket:
            await answer(socket, message)
    except ConnectionClosed:
        pass
    await socket.wait_closed()
    closes[tag] = [socket.close_code, socket.close_reason]


async def answer(socket, message):
    words = message[:256].split(" ") if isinstance(message, str) else [""]
    match words[0]:
        case "!who":
            await socket.send(json.dumps(who(socket)))
        case "!closed":
            await socket.send(json.dumps(closes.get(words[1])))
        case "!close":
            await socket.close(int(words[1]), " ".join(words[2:]))
        case "!vanish":
            socket.transport.abort()
        case "!ping":
            await (await socket.ping(words[1]))
            await socket.send(f"pong {words[1]}")
        case _:
            await socket.send(message)


def who(socket):
    """What this server was told about its client."""
    headers = socket.request.headers
    return {
        "url": socket.request.path,
        "headers": {name.lower(): ", ".join(headers.get_all(name)) for name in headers},
        "subprotocol": socket.subprotocol or "",
        "extensions": ", ".join(extension.name for extension in socket.protocol.extensions),
    }


async def main():
    server = await serve(
        attend,
        "127.0.0.1",
        0,
        max_size=None,
        ping_interval=None,
        compression=None if "--no-deflate" in sys.argv else "deflate",
        # The first one offered, as npm ws does.
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
