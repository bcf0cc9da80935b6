"""WebSocket clients as targets: browsers, and tools that have no gRPC.

`/v1/stores/{store}/targets/{target}` follows the log after `?cursor=`, each client on its own, or, with
`?acknowledge=true`, is the one that takes the target's deliveries: then the connection is the worker's sender.
Where callers must be known, `entrance` asks who they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from poi.v1 import alert_pb2, delivery_pb2
from redis.exceptions import RedisError
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Origin, Subprotocol

from alert_svc.delivery import metrics
from alert_svc.delivery.sender import Failed, Message
from alert_svc.delivery.store import TargetStore, delivery_id
from alert_svc.delivery.targets import Filter
from alert_svc.delivery.worker import Parts, Worker
from mesh import names
from mesh.errors import InvalidArgument, NotFound, OutOfRange, ResourceExhausted
from mesh.peers import host_of
from mesh.settings import split_host_port
from mesh.shares import Caller, Shares, caller

if TYPE_CHECKING:
    from alert_svc.delivery.entrance import Entrance

_PREFIX: Final = "/v1/"
_SPOKEN: Final = Subprotocol("poi.v1")
_SEND_SECONDS: Final = 10.0
_LARGEST_ANSWER: Final = 4096
_CHANGED, _LATER, _BAD_CURSOR, _EXPIRED = 1012, 1013, 4400, 4410

for _name in ("websockets.server", "websockets.asyncio.server"):
    # A line for each connection, and a traceback for each port scan: metrics say how many there are.
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class ConnectionSender:
    """Sends to one client, which acknowledges each message."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection
        self._waiting: tuple[str, asyncio.Future[None]] | None = None

    async def send(self, message: Message) -> None:
        """Returns when the client has acknowledged the message."""
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = (message.content.delivery, acknowledged)
        try:
            await self._connection.send(message.body.decode())
            await acknowledged
        except ConnectionClosed:
            raise Failed("the client left") from None
        finally:
            self._waiting = None

    def acknowledge(self, delivery: str) -> None:
        """What the client says; of another delivery than the one under way it means nothing."""
        if self._waiting and self._waiting[0] == delivery and not self._waiting[1].done():
            self._waiting[1].set_result(None)

    async def close(self) -> None:
        """The connection's handler ends it."""


class WebSocketServer:
    """Serves the WebSocket targets of all stores."""

    def __init__(
        self,
        listen: str,
        origins: Sequence[str],
        store: TargetStore,
        parts: Parts,
        *,
        tls: ssl.SSLContext | None = None,
        entrance: Entrance | None = None,
    ) -> None:
        """`origins`: of the web pages that may connect; programs that send no Origin always may.

        `entrance`: asks who comes; None lets everybody in.
        """
        self._listen, self._store, self._parts = listen, store, parts
        self._tls, self._entrance = tls, entrance
        self._origins: list[Origin | None] = [None, *(Origin(origin) for origin in origins)]
        self._server: Server | None = None
        self._clients: dict[str, dict[ServerConnection, str]] = defaultdict(dict)
        self._shares = Shares("connections")

    async def start(self) -> None:
        """Listens. Raises OSError."""
        host, port = split_host_port(self._listen)
        self._server = await serve(
            self._handle,
            host.strip("[]"),
            port,
            process_request=self._admit,
            origins=self._origins,
            select_subprotocol=_choose,
            ssl=self._tls,
            compression=None,
            max_size=_LARGEST_ANSWER,
            server_header=None,
        )

    async def close(self) -> None:
        """Sends all clients away."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def refresh(self, targets: Mapping[str, delivery_pb2.Target]) -> None:
        """Sends clients of targets away that are not what they were: they connect again."""
        for name, clients in self._clients.items():
            etag = targets[name].etag if name in targets else ""
            for connection in [each for each, seen in clients.items() if seen != etag]:
                _in_background(self._send_away(connection, name, clients[connection]))

    async def _send_away(self, connection: ServerConnection, name: str, seen: str) -> None:
        # A client may have come for a target that was made, or changed, after the targets were read.
        with contextlib.suppress(NotFound, RedisError, OSError):
            target = await self._store.get(name)
            if target.enabled and target.etag == seen:
                return
        await connection.close(_CHANGED, "the target has changed: connect again")

    async def test(self, message: Message, name: str) -> None:
        """Sends a message to all clients of a target that are connected here. Raises Failed where there are none."""
        clients = list(self._clients.get(name, ()))
        results = await asyncio.gather(*(each.send(message.body.decode()) for each in clients), return_exceptions=True)
        if not any(result is None for result in results):
            raise Failed("no client is connected to this server")

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if self._entrance is not None:
            refused = await self._entrance.admit(
                connection, request, _target_name(request.path), _host(connection), takes=_takes(request.path)
            )
            if refused is not None:
                return refused
        try:
            target = await self._store.get(_target_name(request.path))
        except (InvalidArgument, NotFound):
            return connection.respond(HTTPStatus.NOT_FOUND, "no such target\n")
        if not target.HasField("websocket") or not target.enabled:
            return connection.respond(HTTPStatus.NOT_FOUND, "not a WebSocket target, or not enabled\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        who = self._caller(connection)
        try:
            self._shares.take(who)
        except ResourceExhausted as error:
            await connection.close(_LATER, error.reason)
            return
        try:
            await self._serve(connection)
        finally:
            self._shares.leave(who)

    def _caller(self, connection: ServerConnection) -> Caller:
        principal = self._entrance.who(connection) if self._entrance is not None else None
        return caller(principal, _host(connection))

    async def _serve(self, connection: ServerConnection) -> None:
        request = connection.request
        assert request is not None
        with contextlib.suppress(NotFound):  # deleted since it was admitted
            target = await self._store.get(_target_name(request.path))
            clients = self._clients[target.name]
            clients[connection] = target.etag
            try:
                with metrics.CLIENTS.track_inprogress():
                    if _takes(request.path):
                        work = partial(self._deliver, connection, target)
                    else:
                        work = partial(self._follow, connection, target, _asked(request.path, "cursor"))
                    if self._entrance is not None:
                        await self._entrance.attend(connection, target.name, work)
                    else:
                        await work()
            finally:
                del clients[connection]
                if not clients:
                    self._clients.pop(target.name, None)

    async def _deliver(self, connection: ServerConnection, target: delivery_pb2.Target) -> None:
        sender = ConnectionSender(connection)
        await _while_connected(connection, sender.acknowledge, Worker(target, sender, self._parts).run())

    async def _follow(self, connection: ServerConnection, target: delivery_pb2.Target, cursor: str) -> None:
        await _while_connected(connection, lambda _: None, self._send_changes(connection, target, cursor))

    async def _send_changes(self, connection: ServerConnection, target: delivery_pb2.Target, cursor: str) -> None:
        store_id, target_id = names.parse_target(target.name)
        wanted, log = Filter(target.filter), self._parts.log
        try:
            cursor = cursor or await log.position(store_id)
            async with aclosing(log.follow(store_id, cursor)) as changes:
                async for change in changes:
                    if change is None:
                        heartbeat = alert_pb2.ALERT_EVENT_HEARTBEAT
                        content = delivery_pb2.DeliveryMessage(event=heartbeat, cursor=cursor)
                    else:
                        cursor, alert = change.cursor, alert_pb2.Alert.FromString(change.snapshot)
                        if not wanted(change.event, alert):
                            continue
                        content = delivery_pb2.DeliveryMessage(
                            delivery=names.delivery(store_id, target_id, delivery_id(cursor)),
                            event=alert_pb2.AlertEvent.ValueType(change.event),
                            alert=alert,
                            cursor=cursor,
                        )
                    async with asyncio.timeout(_SEND_SECONDS):
                        await connection.send(Message.of(content).body.decode())
        except InvalidArgument:
            await connection.close(_BAD_CURSOR, "not a cursor")
        except OutOfRange:
            await connection.close(_EXPIRED, "CURSOR_EXPIRED")
        except TimeoutError:
            await connection.close(_LATER, "too slow: connect again with the last cursor")


async def _while_connected(connection: ServerConnection, acknowledge: Any, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` while the client is there, and hands on what it acknowledges."""

    async def listen() -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in connection:
                # Brackets to the last byte are more than the parser goes down to.
                with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                    acknowledge(json.loads(text)["acknowledge"])

    tasks = {asyncio.create_task(listen()), asyncio.create_task(work)}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        _raise_first(await asyncio.gather(*tasks, return_exceptions=True))


def _raise_first(results: Iterable[object]) -> None:
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, ConnectionClosed):
            raise result


def _choose(_: object, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Browsers hang up on a server that speaks nothing of what they offer. A token among it is no name to speak by."""
    return _SPOKEN if _SPOKEN in offered else None


def _host(connection: ServerConnection) -> str:
    return host_of(str((connection.remote_address or ("",))[0]))


def _target_name(path: str) -> str:
    """What a request asks for; "" of a path that is none."""
    try:
        return urlsplit(path).path.removeprefix(_PREFIX) if path.isascii() else ""
    except ValueError:  # "//[": half of an address
        return ""


def _takes(path: str) -> bool:
    return _asked(path, "acknowledge") == "true"


def _asked(path: str, name: str) -> str:
    """What the query of a path says under a name; "" for nothing."""
    try:
        return parse_qs(urlsplit(path).query).get(name, [""])[0]
    except ValueError:
        return ""


_closing: set[asyncio.Task[None]] = set()


def _in_background(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    _closing.add(task)
    task.add_done_callback(_closing.discard)
