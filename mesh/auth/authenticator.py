"""A call -> who makes it."""

from __future__ import annotations

from typing import Any, Final

from mesh.auth.keys import Keys, keys_of
from mesh.auth.tokens import LOCAL_ISSUER, Tokens
from mesh.errors import Unauthenticated
from mesh.principal import ALL, Principal
from mesh.settings import SERVICES, ServerSettings, program_name, refuse
from mesh.tls import WHOLE_MESH, SpiffeId

_SPIFFE: Final = "peer_spiffe_id"
_BEARER: Final = "bearer "


class Authenticator:
    """Who calls: whom a token names, else whom the certificate names.

    Every connection has a certificate of our trust domain, that of a person's tool too; it lets one knock. A tool, or
    the gateway, may do nothing by it alone: what a person may do is in the token.
    """

    def __init__(self, tokens: Tokens, trust_domain: str) -> None:
        self._tokens, self._trust_domain = tokens, trust_domain
        self._peers: dict[bytes, Principal] = {}

    @classmethod
    def of(cls, settings: ServerSettings, trust_domain: str) -> Authenticator:
        """As the settings ask; ends the process with one line when keys cannot be read."""
        return cls(tokens_of(settings), trust_domain)

    async def principal(self, context: Any) -> Principal:
        """Who makes the call of this context. Raises Unauthenticated."""
        told = context.auth_context().get(_SPIFFE)
        if not told:
            raise Unauthenticated("no certificate with a SPIFFE id was shown", reason="NO_CERTIFICATE")
        peer = self._peers.get(told[0])
        if peer is None:
            peer = self._peer(told[0])
            if len(self._peers) < 1024:
                self._peers[told[0]] = peer
        said = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if not said:
            return peer
        # Of two, whoever stands before us may have looked at the other one.
        if len(said) > 1 or not isinstance(said[0], str) or not said[0].lower().startswith(_BEARER):
            raise Unauthenticated("authorization must be one `Bearer TOKEN`", reason="TOKEN_INVALID")
        return await self._tokens.principal(said[0][len(_BEARER) :].strip())

    async def close(self) -> None:
        """Let go of the keys."""
        await self._tokens.close()

    def _peer(self, uri: bytes) -> Principal:
        text = uri.decode("ascii", "replace")
        try:
            peer = SpiffeId.parse(text)
        except ValueError:
            raise Unauthenticated("the certificate's id is not one of ours", reason="UNKNOWN_PEER") from None
        if peer.trust_domain != self._trust_domain:
            raise Unauthenticated("the certificate is of another trust domain", reason="UNKNOWN_PEER")
        if peer.name not in SERVICES:
            return Principal("client", text)
        stores = ALL if peer.scope == WHOLE_MESH else frozenset({peer.scope})
        return Principal("service", text, stores=stores, service=peer.name)


def tokens_of(settings: ServerSettings) -> Tokens:
    """Checks tokens as the settings ask; ends the process with one line when keys cannot be read."""
    issuers: dict[str, Keys] = {}
    wanted = {LOCAL_ISSUER: settings.jwks} if settings.jwks else {}
    for issuer, location in {**wanted, **settings.jwt_issuers}.items():
        try:
            issuers[issuer] = keys_of(location, issuer)
        except (OSError, ValueError) as error:
            name = "JWKS" if issuer == LOCAL_ISSUER else "JWT_ISSUERS"
            refuse(program_name(type(settings)), f"POI_{settings.service.upper()}_{name}: {location}: {error}")
    return Tokens(
        issuers,
        audience=settings.jwt_audience,
        roles_claim=settings.jwt_roles_claim,
        stores_claim=settings.jwt_stores_claim,
    )
