"""Python's paho with mosquitto; speaks with the test as play.mjs does."""
import base64
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

import paho.mqtt.client as mqtt

MESSAGES = 1000


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("mosquitto does not listen")


def token(secret, subject, seconds=600):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    claims = {"sub": subject, "exp": int(time.time()) + seconds}
    head = b".".join(part(json.dumps(one).encode()) for one in ({"alg": "HS256"}, claims))
    return (head + b"." + part(hmac.new(secret, head, hashlib.sha256).digest())).decode()


def client(gate, user, password, protocol):
    """A client, and the reason code of its CONNACK."""
    one = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, protocol=protocol, transport="websockets", reconnect_on_failure=False
    )
    one.ws_set_options(path="/mqtt")
    one.username_pw_set(user, password)
    answered = threading.Event()
    codes = []

    def on_connect(_client, _data, _flags, reason, _properties):
        codes.append(str(reason))
        answered.set()

    one.on_connect = on_connect
    host, port = gate.removeprefix("ws://").split(":")
    one.connect(host, int(port))
    one.loop_start()
    assert answered.wait(10), "no CONNACK"
    return one, codes[0]


def exactly(one):
    got = []
    done = threading.Event()
    ready = threading.Event()

    def on_message(_client, _data, message):
        got.append(int(message.payload))
        if len(got) == MESSAGES:
            done.set()

    one.on_message = on_message
    one.on_subscribe = lambda *_: ready.set()
    one.subscribe("paho", 1)
    assert ready.wait(10), "no SUBACK"
    for number in range(MESSAGES):
        one.publish("paho", str(number), 1)
    assert done.wait(20), f"{len(got)} messages"
    assert got == list(range(MESSAGES))


def main():
    port, plain = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = os.path.join(directory, "mosquitto.conf")
        user = "user root\n" if os.getuid() == 0 else ""
        with open(config, "w", encoding="ascii") as file:
            file.write(f"{user}listener {plain} 127.0.0.1\nlistener {port} 127.0.0.1\n")
            file.write("protocol websockets\nallow_anonymous true\n")
        path = os.environ["PATH"] + ":/usr/sbin"
        broker = subprocess.Popen(
            ["mosquitto", "-c", config], env={**os.environ, "PATH": path}, stderr=subprocess.DEVNULL
        )
        try:
            listening(port)
            print(json.dumps({"9001": port, "9002": port}), flush=True)
            told = json.loads(sys.stdin.readline())
            play(told["gate"], told["secret"].encode())
        finally:
            broker.kill()


def play(gate, secret):
    for protocol in (mqtt.MQTTv311, mqtt.MQTTv5):
        one, code = client(gate, "alice", token(secret, "alice"), protocol)
        assert code == "Success", code
        exactly(one)
        one.disconnect()
        one.loop_stop()
    print("ok paho 3.1.1 and 5 are admitted, and 1000 messages arrive")
    for protocol in (mqtt.MQTTv311, mqtt.MQTTv5):
        for user, password in (
            ("alice", "nonsense"),
            ("alice", token(secret, "alice", -600)),
            ("mallory", token(secret, "alice")),
        ):
            one, code = client(gate, user, password, protocol)
            assert code == "Not authorized", code
            one.loop_stop()
    print("ok paho gets its refusal for a bad, an expired token and for another name")
    one, code = client(gate, "alice", token(secret, "alice", -28), mqtt.MQTTv5)
    gone = threading.Event()
    one.on_disconnect = lambda *_: gone.set()
    assert code == "Success", code
    assert gone.wait(10), "still there"
    one.loop_stop()
    one, _ = client(gate, "alice", token(secret, "alice"), mqtt.MQTTv5)
    exactly(one)
    one.disconnect()
    one.loop_stop()
    print("ok paho is closed when its token expires, and comes back with a fresh one")
    print("passed 3 of 3")


main()
