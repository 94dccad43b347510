"""A client by PyPI websockets, through the gate: client.py '{"gate": "127.0.0.1:1", "tokens": {...}}'

The same story as client.mjs; tests/e2e/PEERS.md says what the server does.
"""

import asyncio
import base64
import hashlib
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

CASE = json.loads(sys.argv[1])
TOKENS = CASE["tokens"]
GOOD = TOKENS["good"]
PATIENCE = 20
SIZES = [0, 1, 125, 126, 127, 4095, 65_535, 65_536, 65_537, 1_000_003, 3 << 20]
BEARER = {"Authorization": f"Bearer {GOOD}"}
AUTHENTICATED = {"type": "authenticated", "user": "ada"}

outcomes = []


async def check(what, act):
    """One check of the story; one that throws, or takes too long, fails."""
    try:
        await asyncio.wait_for(act, PATIENCE)
        outcomes.append(True)
        print(f"ok      {what}")
    except Exception as error:  # noqa: BLE001: whatever it is, the story goes on
        outcomes.append(False)
        print(f"FAILED  {what}: {type(error).__name__} {error}")


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {str(got)[:300]!r}, wanted {str(wanted)[:300]!r}")


def open_socket(path, headers=None, protocols=None, deflate=True, origin=None):
    return connect(
        f"ws://{CASE['gate']}{path}",
        additional_headers=headers,
        subprotocols=protocols,
        origin=origin,
        compression="deflate" if deflate else None,
        ping_interval=None,
        max_size=None,
        proxy=None,
    )


async def ask(socket, text):
    await socket.send(text)
    return json.loads(await socket.recv())


async def closed(socket):
    try:
        while True:
            await socket.recv()
    except ConnectionClosed:
        return [socket.close_code, socket.close_reason]


def b64(token):
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def told(who, subprotocol):
    """What the server was told: who it is, and nothing of the credential."""
    equal(who["headers"].get("x-forwarded-user"), "ada")
    equal(who["subprotocol"], subprotocol)
    for kind, token in TOKENS.items():
        for form in [token, b64(token)]:
            if form in json.dumps(who):
                raise AssertionError(f"the {kind} token went past the gate")


async def logs_in(path, subprotocol="", **options):
    async with open_socket(path, **options) as socket:
        equal(socket.subprotocol or "", subprotocol)
        who = await ask(socket, "!who")
        told(who, subprotocol)
        equal(who["url"], "/deflate/a?tag=1")
        if "Cookie" in (options.get("headers") or {}):
            equal(who["headers"]["cookie"], "theme=dark")


async def marker_alone():
    async with open_socket("/deflate/a", protocols=["bearer", GOOD]) as socket:
        equal(socket.subprotocol, "bearer")
        told(await ask(socket, "!who"), "")


async def first_message():
    async with open_socket("/message/a") as socket:
        equal(socket.protocol.extensions, [])
        equal(await ask(socket, json.dumps({"type": "auth", "token": GOOD})), AUTHENTICATED)
        told(await ask(socket, "!who"), "")


async def first_message_in_fragments():
    text = json.dumps({"type": "auth", "token": GOOD})
    async with open_socket("/message/a") as socket:
        await socket.send([text[:20], text[20:50], text[50:]])
        equal(json.loads(await socket.recv()), AUTHENTICATED)


async def refused(path, code, reason, first=None, **options):
    async with open_socket(path, **options) as socket:
        if first is not None:
            await socket.send(json.dumps(first))
        equal(json.loads(await socket.recv()), {"type": "error", "error": reason, "code": code})
        equal(await closed(socket), [code, reason])


async def refused_by_http(path, status, body, **options):
    try:
        async with open_socket(path, **options):
            raise AssertionError("was not refused")
    except InvalidStatus as error:
        equal(error.response.status_code, status)
        equal(json.loads(error.response.body), body)


async def every_size(path, deflate, extension):
    async with open_socket(path, headers=BEARER, deflate=deflate) as socket:
        equal([used.name for used in socket.protocol.extensions], extension)
        for size in SIZES:
            for message in [os.urandom(size), ("äö€ 𝄞 text, " * (size // 12 + 1))[:size]]:
                _, back = await asyncio.gather(socket.send(message), socket.recv())
                if back != message:
                    raise AssertionError(f"{size} of {type(message).__name__} came back otherwise")


async def a_thousand(path, deflate):
    messages = [
        os.urandom(n * 7 % 3000) if n % 2 else f"{n}: {'x' * (n % 300)}" for n in range(1000)
    ]

    async def send(socket):
        for message in messages:
            await socket.send(message)

    async def receive(socket):
        return [await socket.recv() for _ in messages]

    async with open_socket(path, headers=BEARER, deflate=deflate) as socket:
        _, back = await asyncio.gather(send(socket), receive(socket))
        digests = [hashlib.sha256(repr(all_of).encode()).hexdigest() for all_of in (back, messages)]
        equal(digests[0], digests[1])


async def fragments(path, deflate):
    async with open_socket(path, headers=BEARER, deflate=deflate) as socket:
        await socket.send(["one ", "two ", "three"])
        equal(await socket.recv(), "one two three")


async def pings():
    async with open_socket("/deflate/a", headers=BEARER) as socket:
        await (await socket.ping("from the client"))
        await socket.send("!ping from-the-server")
        equal(await socket.recv(), "pong from-the-server")


async def client_closes(code, reason):
    tag = f"client-{code}"
    async with open_socket(f"/deflate/a?tag={tag}", headers=BEARER) as socket:
        await socket.close(code, reason)
        equal(socket.close_code, code)
    async with open_socket("/deflate/a", headers=BEARER) as witness:
        seen = None
        while seen is None:
            seen = await ask(witness, f"!closed {tag}")
        equal(seen, [code, reason])


async def server_closes(code, reason):
    async with open_socket("/deflate/a", headers=BEARER) as socket:
        await socket.send(f"!close {code} {reason}")
        equal(await closed(socket), [code, reason])


async def server_vanishes():
    async with open_socket("/deflate/a", headers=BEARER) as socket:
        await socket.send("!vanish")
        equal((await closed(socket))[0], 1013)


LOGINS = {
    "a cookie": {"path": "/deflate/a?tag=1", "headers": {"Cookie": f"theme=dark; session={GOOD}"}},
    "a query parameter": {"path": f"/deflate/a?tag=1&token={GOOD}"},
    "an Authorization header": {"path": "/deflate/a?tag=1", "headers": BEARER},
    "a subprotocol": {
        "path": "/deflate/a?tag=1",
        "protocols": ["chat.v1", f"bearer.b64.{b64(GOOD)}"],
        "subprotocol": "chat.v1",
    },
    "a pair of subprotocols": {
        "path": "/deflate/a?tag=1",
        "protocols": ["bearer", GOOD, "chat.v1"],
        "subprotocol": "chat.v1",
    },
}
UNAUTHORIZED, EXPIRED, FORBIDDEN = (
    (4001, "Unauthorized"),
    (4002, "Session expired"),
    (4003, "Forbidden"),
)
REFUSALS = [
    ("no credential", "/deflate/a", UNAUTHORIZED, {}),
    ("a forged token", f"/deflate/a?token={TOKENS['forged']}", UNAUTHORIZED, {}),
    ("an expired token", f"/deflate/a?token={TOKENS['expired']}", EXPIRED, {}),
    ("a suspended user", f"/deflate/a?token={TOKENS['suspended']}", FORBIDDEN, {}),
    ("a server that is down", "/down/a", (1013, "Bad gateway"), {"headers": BEARER}),
    ("another first message", "/message/a", UNAUTHORIZED, {"first": {"type": "hello"}}),
    (
        "an expired first message",
        "/message/a",
        EXPIRED,
        {"first": {"type": "auth", "token": TOKENS["expired"]}},
    ),
    (
        "a suspended user's first message",
        "/message/a",
        FORBIDDEN,
        {"first": {"type": "auth", "token": TOKENS["suspended"]}},
    ),
]
EXTENSIONS = [
    ("with permessage-deflate", "/deflate/a", True, ["permessage-deflate"]),
    ("without, since the client does not offer it", "/deflate/a", False, []),
    ("without, since the server declines it", "/plain/a", True, []),
]
CLOSES = [(1000, "done"), (1001, ""), (3999, "käse"), (4321, "by either side")]


async def story():
    for name, login in LOGINS.items():
        await check(f"{name} logs in, and stays at the gate", logs_in(**login))
    await check("a pair alone is answered with its marker, never with the token", marker_alone())
    await check("a first message logs in, and is answered", first_message())
    await check("a first message in fragments logs in, too", first_message_in_fragments())
    for name, path, (code, reason), options in REFUSALS:
        act = refused(path, code, reason, **options)
        await check(f"{name} is closed with {code}, readably", act)
    await check(
        "reject: http refuses the upgrade itself",
        refused_by_http("/http/a", 401, {"error": "Unauthorized"}),
    )
    await check(
        "another site's page is refused whatever it brings",
        refused_by_http(
            "/deflate/a",
            403,
            {"error": "Origin not allowed"},
            headers=BEARER,
            origin="https://evil.example",
        ),
    )
    for how, path, deflate, extension in EXTENSIONS:
        act = every_size(path, deflate, extension)
        await check(f"messages of every size come back, {how}", act)
        await check(f"1,000 messages come back exactly, {how}", a_thousand(path, deflate))
        await check(f"a message in fragments comes back whole, {how}", fragments(path, deflate))
    await check("pings pass in both directions", pings())
    for code, reason in CLOSES:
        await check(f"the client's close {code} reaches the server", client_closes(code, reason))
        await check(f"the server's close {code} reaches the client", server_closes(code, reason))
    await check("a server that vanishes is closed with 1013", server_vanishes())


asyncio.run(story())
print(f"{outcomes.count(True)} passed, {outcomes.count(False)} failed")
sys.exit(0 if outcomes and all(outcomes) else 1)
