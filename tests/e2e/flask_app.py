"""A Flask application that logs its users in: flask_app.py SECRET [FALLBACK...]

Prints {"port": ...} on 127.0.0.1; ends with its input.
"""

import json
import os
import sys
import threading
import uuid
from wsgiref.simple_server import WSGIRequestHandler, make_server

from flask import Flask, redirect, request, session

app = Flask(__name__)
secret, *fallbacks = sys.argv[1:]
app.config.update(SECRET_KEY=secret, SECRET_KEY_FALLBACKS=fallbacks)


@app.get("/")
def home():
    return "hello"


@app.post("/login")
def enter():
    session["user_id"] = request.form["user"]
    session["device"] = uuid.UUID(int=7)
    session["note"] = request.form.get("note", "")
    return redirect("/", 303)


@app.post("/logout")
def leave():
    session.clear()
    return redirect("/", 303)


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
print(json.dumps({"port": server.server_port}), flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.serve_forever()
