"""A webhook receiver, as an alarm desk would have: it checks the signature of each message before it believes it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from google.protobuf import json_format
from poi.v1 import delivery_pb2

_TOLERANCE_SECONDS: Final = 300


class Receiver:
    """An HTTP server on a free loopback port, in threads of its own. Use as a context manager, in a coroutine."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self.secret = f"whsec_{base64.b64encode(self._key).decode('ascii')}"
        """What the target is created with."""
        self.refused = 0
        """Messages whose signature was wrong or old."""
        self._messages: dict[str, delivery_pb2.DeliveryMessage] = {}
        self._loop, self._came = asyncio.get_running_loop(), asyncio.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                self.send_response(204 if receiver._take(dict(self.headers.items()), body) else 400)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True, name="webhook").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def messages(self) -> list[delivery_pb2.DeliveryMessage]:
        """What came, once each: a repeat has the same delivery name."""
        return list(self._messages.values())

    async def wait_for(self, wanted: set[tuple[str, int]], seconds: float) -> bool:
        """Whether each of these (alert, event) came within the time."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._came.clear()
                    if wanted <= {(message.alert.name, int(message.event)) for message in self.messages}:
                        return True
                    await self._came.wait()
        except TimeoutError:
            return False

    def _take(self, headers: dict[str, str], body: bytes) -> bool:
        if not self._is_signed({name.lower(): value for name, value in headers.items()}, body):
            self.refused += 1
            return False
        message = json_format.Parse(body, delivery_pb2.DeliveryMessage(), ignore_unknown_fields=True)
        self._messages[message.delivery] = message
        self._loop.call_soon_threadsafe(self._came.set)
        return True

    def _is_signed(self, headers: dict[str, str], body: bytes) -> bool:
        """By https://www.standardwebhooks.com."""
        name, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > _TOLERANCE_SECONDS:
            return False
        signed = f"{name}.{timestamp}.".encode() + body
        expected = f"v1,{base64.b64encode(hmac.digest(self._key, signed, 'sha256')).decode('ascii')}"
        given = headers.get("webhook-signature", "").split()
        return any(hmac.compare_digest(expected.encode(), one.encode()) for one in given)
