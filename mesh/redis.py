"""The connection to Redis, made in one way for all services."""

from __future__ import annotations

from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, TimeoutError

Redis = redis.asyncio.Redis

BLOCK_MS = 2000
"""Longest wait to ask of a blocking command (XREAD BLOCK), in milliseconds.

Well under the socket's time-out, so that a wait that runs out is an empty answer, not an error.
"""

_SOCKET_SECONDS = 5.0


class _Tls(redis.asyncio.SSLConnection):
    """Reads the files of its address whenever it connects: certificates are renewed while a server runs.

    redis-py keeps what it read first for as long as the pool keeps the connection, which is connected again and again.
    """

    def _connection_arguments(self) -> Any:
        self.ssl_context.context = None
        return super()._connection_arguments()


def connect(url: str) -> Redis:
    """A client with its own pool, that hands out bytes and repeats a command for about 3 s while the connection fails.

    Nothing connects before the first command. A command that was sent and not answered may run twice: write commands
    that bear it (ids of our own, Lua, MULTI with a check). When the repeats run out,
    `redis.exceptions.ConnectionError` or `TimeoutError` comes out, which the errors interceptor answers as
    UNAVAILABLE. Close with `await client.aclose()`.
    """
    client: Redis = redis.asyncio.Redis.from_url(
        url,
        decode_responses=False,
        socket_connect_timeout=2.0,
        socket_timeout=_SOCKET_SECONDS,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), retries=6),
        # uvloop says RuntimeError of a connection that the other end has closed before the handshake.
        retry_on_error=[ConnectionError, TimeoutError, BusyLoadingError, RuntimeError],
    )
    if client.connection_pool.connection_class is redis.asyncio.SSLConnection:
        client.connection_pool.connection_class = _Tls
    return client
