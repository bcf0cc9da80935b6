"""Lets in who knocks by something else than gRPC (a WebSocket), by the row of a method of the table."""

from __future__ import annotations

from typing import Final

from mesh.auth.interceptor import permit
from mesh.auth.policy import POLICY
from mesh.auth.refusals import Refusal, Told
from mesh.auth.tokens import Tokens
from mesh.errors import MeshError, NotFound, Unauthenticated
from mesh.principal import Principal

_STORES: Final = "stores/"


class Door:
    """Asks for a token, and then as `AuthInterceptor` does."""

    def __init__(self, tokens: Tokens, *, on_refusal: Told | None = None) -> None:
        """`on_refusal` keeps a record of what was refused."""
        self._tokens, self._on_refusal = tokens, on_refusal

    async def admit(
        self, method: str, resource: str, token: str, peer: str, host: str = "", *, also: str = ""
    ) -> Principal:
        """Who bears the token, if they may call `method` ("poi.v1.AlertService/StreamAlerts") on `resource`.

        `peer` is where they are, and `host` their address alone. `also`: another method that they must be let do.

        Raises Unauthenticated, PermissionDenied; NotFound for what is of another store, as if there were none.
        """
        principal: Principal | None = None
        try:
            if not token:
                raise Unauthenticated("a token is needed", reason="NO_TOKEN")
            principal = await self._tokens.principal(token)
            for each in filter(None, (method, also)):
                permit(principal, POLICY[each])
            parts = resource.split("/", 2)
            if not resource.startswith(_STORES) or parts[1] not in principal.stores:
                raise NotFound(resource)
        except MeshError as error:
            if self._on_refusal is not None:
                await self._on_refusal(Refusal(principal, method, resource, error.code.name, error.reason, peer, host))
            raise
        return principal

    async def close(self) -> None:
        """Let go of the keys."""
        await self._tokens.close()
