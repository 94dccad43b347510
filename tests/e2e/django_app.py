"""A Django application that logs its users in: django_app.py ENGINE DATABASE SECRET [FALLBACK...]

ENGINE is db, cached_db, signed_cookies or cache (in a file beside DATABASE, as JSON).
Prints {"port": ...} on 127.0.0.1; ends with its input.
"""

import json
import os
import sys
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings

engine, database, secret, *fallbacks = sys.argv[1:]
settings.configure(
    SECRET_KEY=secret,
    SECRET_KEY_FALLBACKS=fallbacks,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.sessions",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
)
django.setup()

from django.contrib.auth import authenticate, login, logout  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpResponse, HttpResponseForbidden, HttpResponseRedirect  # noqa: E402
from django.urls import path  # noqa: E402


def enter(request):
    user = authenticate(request, username=request.POST["user"], password=request.POST["password"])
    if user is None:
        return HttpResponseForbidden()
    login(request, user)
    # Enough for Django to compress what it signs.
    request.session["note"] = "x" * 500
    return HttpResponseRedirect("/")


def leave(request):
    logout(request)
    return HttpResponseRedirect("/")


urlpatterns = [
    path("", lambda request: HttpResponse("hello")),
    path("login", enter),
    path("logout", leave),
]


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


call_command("migrate", verbosity=0)
if not User.objects.filter(username="ada").exists():
    User.objects.create_user("ada", password="opensesame")
server = make_server("127.0.0.1", 0, WSGIHandler(), handler_class=Quiet)
print(json.dumps({"port": server.server_port}), flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.serve_forever()
