"""`python -m bench.fanout`: the baseline of the alert streams, a bare grpc.aio server that sends all what it is given.

No log, no filter, no cursor, no interceptor: the least that a Python gRPC server does to tell every client. It prints
its address, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

SERVICE = "bench.Fanout"


class Fanout:
    """One queue for each client."""

    def __init__(self) -> None:
        self._clients: set[asyncio.Queue[bytes]] = set()

    async def subscribe(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """What is published from now on, after one message that says so."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._clients.add(queue)
        try:
            yield request
            while True:
                yield await queue.get()
        finally:
            self._clients.discard(queue)

    async def publish(self, message: bytes, context: Any) -> bytes:
        """Gives the message to all."""
        for client in self._clients:
            client.put_nowait(message)
        return b""


async def main() -> None:
    """Serves on a free port until standard input ends."""
    fanout, server = Fanout(), grpc.aio.server()
    methods: dict[str, Any] = {
        "Subscribe": grpc.unary_stream_rpc_method_handler(fanout.subscribe),
        "Publish": grpc.unary_unary_rpc_method_handler(fanout.publish),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
