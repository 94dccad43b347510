"""Verifies assertions of sockgate with PyPI pyjwt, as an upstream would:
assertion.py JWKS-URL TOKEN...; one line each, {"header", "claims"} or "refused"."""

import json
import sys

import jwt

url, *tokens = sys.argv[1:]
keys = jwt.PyJWKClient(url)
for token in tokens:
    try:
        header = jwt.get_unverified_header(token)
        if header["typ"] != "sockgate+jwt":
            raise jwt.InvalidTokenError("typ")
        claims = jwt.decode(
            token,
            keys.get_signing_key_from_jwt(token),
            algorithms=["ES256", "ES384", "EdDSA", "RS256"],
            issuer="sockgate",
            audience="chat",
            options={"require": ["sub", "iat", "nbf", "exp", "jti", "route"]},
        )
        print(json.dumps({"header": header, "claims": claims}))
    except jwt.PyJWTError:
        print(json.dumps("refused"))
