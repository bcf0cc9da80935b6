"""Who may come in by WebSocket, where callers must be known: who bears the token of somebody who may stream alerts.

`Authorization: Bearer TOKEN`, or, as browsers cannot send that, the subprotocols `poi.v1` and `poi.bearer.TOKEN`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final
from weakref import WeakKeyDictionary

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from mesh.audit import recorder
from mesh.audit.actor import actor_from
from mesh.auth import Door, Principal
from mesh.auth.ending import Ended, while_good
from mesh.errors import MeshError, NotFound, PermissionDenied, Unauthenticated

METHOD: Final = "poi.v1.AlertService/StreamAlerts"
"""Whose row of the policy, and whose name in the audit log, this has."""
_TAKES: Final = "poi.v1.AlertService/AcknowledgeAlert"
"""The row of who takes the deliveries as well: they go to nobody else then, so it is no matter of looking on."""
_TOKEN_ENDED: Final = 4401
_BEARER, _BEARER_PROTOCOL = "bearer ", "poi.bearer."
_STATUS: Final[Mapping[type[MeshError], HTTPStatus]] = {
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    PermissionDenied: HTTPStatus.FORBIDDEN,
}


class Entrance:
    """Asks who comes, and sends them away when their token ends."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._admitted: WeakKeyDictionary[ServerConnection, Principal] = WeakKeyDictionary()

    async def admit(
        self, connection: ServerConnection, request: Request, target: str, host: str, *, takes: bool
    ) -> Response | None:
        """None for who may follow `target`, the answer for who may not.

        `host`: their address. `takes`: whether they want the target's deliveries for themselves.
        """
        try:
            self._admitted[connection] = await self._door.admit(
                METHOD, target, _token(request), _peer(connection), host, also=_TAKES if takes else ""
            )
        except NotFound:  # what is of another store is not there
            return connection.respond(HTTPStatus.NOT_FOUND, "no such target\n")
        except MeshError as error:
            status = _STATUS.get(type(error), HTTPStatus.SERVICE_UNAVAILABLE)
            return connection.respond(status, f"{error.message} ({error.reason})\n")
        return None

    def who(self, connection: ServerConnection) -> Principal:
        """Whom it has admitted."""
        return self._admitted[connection]

    async def attend(self, connection: ServerConnection, target: str, work: Callable[[], Awaitable[None]]) -> None:
        """Puts on record who follows, and does `work` until it ends, or their token does."""
        principal = self._admitted[connection]
        try:
            await recorder.record(METHOD, target, "OK", actor=actor_from(principal), peer=_peer(connection))
        except MeshError:
            await connection.close(1013, "the audit log cannot be written: connect again")
            return
        try:
            await while_good(principal, work())
        except Ended as error:
            await connection.close(_TOKEN_ENDED, error.reason)

    async def close(self) -> None:
        """Let go of the keys."""
        await self._door.close()


def _token(request: Request) -> str:
    for value in request.headers.get_all("Authorization"):
        if value.lower().startswith(_BEARER):
            return value[len(_BEARER) :].strip()
    for value in request.headers.get_all("Sec-WebSocket-Protocol"):
        for offered in value.split(","):
            if offered.strip().startswith(_BEARER_PROTOCOL):
                return offered.strip().removeprefix(_BEARER_PROTOCOL)
    return ""


def _peer(connection: ServerConnection) -> str:
    return ":".join(map(str, (connection.remote_address or ())[:2]))
