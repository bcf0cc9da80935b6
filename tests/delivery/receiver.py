"""An HTTP server that takes webhooks and behaves as badly as a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SERVER_ERROR = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
HANG = b""
CLOSE = b"-"


def answer(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "content-length: 0", "", ""]).encode()


@dataclass
class Post:
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def alert(self) -> str:
        return str(self.message.get("alert", {}).get("name", ""))


@dataclass
class Receiver:
    """`behave` says what is answered to a post, after how it was noted in `posts`."""

    behave: Callable[[Post], bytes] = lambda post: OK
    posts: list[Post] = field(default_factory=list)
    delay: float = 0.0
    port: int = 0
    host: str = "127.0.0.1"
    scheme: str = "http"

    def __post_init__(self) -> None:
        self._moved = asyncio.Condition()
        self.accepted: list[Post] = []
        """Posts that were answered with a success."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        """Deliveries in the order of their first acceptance."""
        return list(dict.fromkeys(post.id for post in self.accepted))

    @property
    def alerts(self) -> list[str]:
        """Alerts in the order of their first acceptance."""
        return list({post.id: post.alert for post in self.accepted}.values())

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds), self._moved:
            await self._moved.wait_for(condition)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
                }
                post = Post(headers, await reader.readexactly(int(headers.get("content-length", 0))))
                reply = self.behave(post)
                if self.delay:
                    await asyncio.sleep(self.delay)
                async with self._moved:
                    self.posts.append(post)
                    if reply.startswith(b"HTTP/1.1 2"):
                        self.accepted.append(post)
                    self._moved.notify_all()
                if reply == HANG:
                    await reader.read()
                    break
                if reply == CLOSE:
                    break
                writer.write(reply)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(receiver: Receiver, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await receiver.handle(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, receiver.host, receiver.port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    receiver.scheme = "https" if tls else "http"
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
