"""The connection to Redis, made in one way for all services."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Iterable, Mapping
from typing import Any, Final

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


class _Connection(redis.asyncio.Connection):
    """Sends without asyncio.wait_for, in which redis-py sends.

    That one swallows a cancellation that comes while it ends (in Python 3.11): every second one of a task that works
    with Redis without a pause, which then went on, for ever if it is a loop. It also makes a task of each command.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command(_chunks(command))
        except builtins.TimeoutError:
            await self.disconnect(nowait=True)
            raise TimeoutError("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise ConnectionError(f"Error while writing to socket: {error}") from error
        except BaseException:  # a part may have been sent
            await self.disconnect(nowait=True)
            raise


def _chunks(command: bytes | str | Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(command, str):
        command = command.encode()
    return [command] if isinstance(command, bytes) else command


class _Local(_Connection, redis.asyncio.UnixDomainSocketConnection):
    """Over a socket of this machine."""


class _Tls(_Connection, redis.asyncio.SSLConnection):
    """Reads the files of its address whenever it connects: certificates are renewed while a server runs.

    redis-py keeps what it read first for as long as the pool keeps the connection, which is connected again and again.
    """

    def _connection_arguments(self) -> Any:
        self.ssl_context.context = None
        return super()._connection_arguments()


_CONNECTIONS: Final[Mapping[type[Any], type[_Connection]]] = {
    redis.asyncio.Connection: _Connection,
    redis.asyncio.SSLConnection: _Tls,
    redis.asyncio.UnixDomainSocketConnection: _Local,
}


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
    client.connection_pool.connection_class = _CONNECTIONS[client.connection_pool.connection_class]
    return client
