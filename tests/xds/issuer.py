"""Who signs tokens, and publishes the keys to check them with as an OIDC provider does."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

ISSUER = "https://identity.example"


class Issuer:
    """Signs tokens with its newest key."""

    def __init__(self, name: str = ISSUER) -> None:
        self.name = name
        self.rotate()

    def rotate(self) -> None:
        """Another key, of another id, instead of the one there was."""
        self._key = rsa.generate_private_key(65537, 2048)
        self._id = str(time.monotonic_ns())

    @property
    def jwks(self) -> str:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        encryption = {"kty": "RSA", "kid": "other", "use": "enc", "n": public["n"], "e": public["e"]}
        return json.dumps({"keys": [{**public, "kid": self._id, "use": "sig", "x5t": "ignored"}, encryption]})

    def token(self, **claims: Any) -> str:
        now = int(time.time())
        body = {"iss": self.name, "aud": "poi-mesh", "sub": "ann", "iat": now, "exp": now + 3600, **claims}
        return jwt.encode(body, self._key, algorithm="RS256", headers={"kid": self._id})


class Provider:
    """An identity provider on this machine."""

    def __init__(self) -> None:
        self.down = False
        self.asked = 0
        """How often for keys."""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = provider._answer(self.path)
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.issuer = Issuer(self.url)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def _answer(self, path: str) -> tuple[int, bytes]:
        if self.down:
            self.asked += 1
            return 503, b"not now"
        if path == "/.well-known/openid-configuration":
            return 200, json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys"}).encode()
        self.asked += 1
        return 200, self.issuer.jwks.encode()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
