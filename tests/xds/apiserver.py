"""As much of a Kubernetes API server as a watcher of EndpointSlices meets, over HTTP."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

PATH = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
Slice = dict[str, Any]


def endpoint_slice(service: str, *addresses: str, name: str = "", port: int = 7002, **endpoint: Any) -> Slice:
    """A slice of a service; `endpoint` says more about each of its endpoints."""
    return {
        "metadata": {"name": name or f"{service}-abc", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "metrics", "port": 9002}, {"name": "grpc", "port": port}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}, **endpoint} for address in addresses],
    }


class ApiServer:
    """Holds slices, and every change of them until `compact`."""

    def __init__(self) -> None:
        self.url = ""
        self.lists = 0
        self.watches: list[str] = []
        """The version that each watch began at."""
        self.status = 200
        """What it answers everything with."""
        self.ends_watches = False
        """Whether it ends each watch when it has said what there is."""
        self._slices: dict[str, Slice] = {}
        self._version = 100
        self._oldest = 100
        self._events: list[tuple[int, str]] = []
        self._news = asyncio.Event()
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._over = False

    def put(self, item: Slice) -> None:
        """Add or replace a slice."""
        known = item["metadata"]["name"] in self._slices
        self._change("MODIFIED" if known else "ADDED", item)
        self._slices[item["metadata"]["name"]] = item

    def delete(self, name: str) -> None:
        """Remove a slice."""
        self._change("DELETED", self._slices.pop(name))

    def compact(self) -> None:
        """Forget all changes: who asks for them is told 410."""
        self._oldest, self._events = self._version, []

    def drop(self) -> None:
        """Break all connections."""
        for writer in self._connections:
            writer.transport.abort()

    def send(self, event: dict[str, Any]) -> None:
        """Send a watcher something out of the ordinary."""
        self._version += 1
        self._events.append((self._version, json.dumps(event)))
        self._notify()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._over = True
        self._notify()
        ending = list(self._connections.values())
        self.drop()
        await asyncio.gather(*ending)

    def _change(self, kind: str, item: Slice) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        self._events.append((self._version, json.dumps({"type": kind, "object": item})))
        self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[writer] = task
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                target = urlsplit(head.split()[1].decode())
                await self._answer(target.path, parse_qs(target.query), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            del self._connections[writer]
            writer.close()

    async def _answer(self, path: str, query: dict[str, list[str]], writer: asyncio.StreamWriter) -> None:
        if path.rstrip("/") == "/version":
            await self._reply(writer, {"gitVersion": "v1.35.0"})
        elif self.status != 200 or path != PATH:
            status = self.status if path == PATH else 404
            await self._reply(writer, {"kind": "Status", "code": status, "message": "not now"}, status)
        elif "watch" in query:
            await self._watch(query["resourceVersion"][0], writer)
        else:
            self.lists += 1
            metadata = {"resourceVersion": str(self._version)}
            await self._reply(writer, {"metadata": metadata, "items": list(self._slices.values())})

    async def _watch(self, version: str, writer: asyncio.StreamWriter) -> None:
        self.watches.append(version)
        at = int(version)
        if at < self._oldest:
            gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
            await self._reply(writer, gone)
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        while not self._over:
            news = self._news
            for number, event in self._events:
                if number > at:
                    at = number
                    line = event.encode() + b"\n"
                    writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            await writer.drain()
            if self.ends_watches:
                break
            await news.wait()
        writer.write(b"0\r\n\r\n")

    async def _reply(self, writer: asyncio.StreamWriter, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
