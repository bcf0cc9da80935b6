"""A token (JWT) -> who it is of."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from mesh.auth.keys import ALGORITHMS, Keys
from mesh.errors import Unauthenticated
from mesh.principal import ALL, Principal, Role, Stores

LOCAL_ISSUER: Final = "poi-mesh"
"""Issuer of local accounts' tokens (`python -m mesh.token`)."""

LEEWAY_SECONDS: Final = 30.0
"""By which the clocks of issuers and servers may differ."""
_MAX_CHARACTERS: Final = 8192
_REMEMBERED: Final = 1024
_FOR_EVER: Final = 1 << 53
_NEEDED: Final = ["exp", "iat", "iss", "aud", "sub"]


@dataclass(frozen=True, slots=True)
class _Checked:
    principal: Principal
    keys: Keys
    version: int


class Tokens:
    """Checks tokens of several issuers, each with its own keys: nobody's keys are good for another one's tokens.

    A token that was checked is remembered until it ends or its issuer's keys change: a signature costs 0.1 ms.
    """

    def __init__(
        self,
        issuers: Mapping[str, Keys],
        *,
        audience: str = "poi-mesh",
        roles_claim: str = "roles",
        stores_claim: str = "stores",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers, self._audience = issuers, audience
        self._roles_claim, self._stores_claim = roles_claim, stores_claim
        self._clock = clock
        self._checked: OrderedDict[str, _Checked] = OrderedDict()

    async def principal(self, token: str) -> Principal:
        """Whose token it is. Raises Unauthenticated, which does not repeat the token; Unavailable without keys."""
        known = self._checked.get(token)
        if known is not None:
            expires = known.principal.expires or 0.0
            if known.keys.version() == known.version and self._clock() < expires + LEEWAY_SECONDS:
                self._checked.move_to_end(token)
                return known.principal
            del self._checked[token]
        if len(token) > _MAX_CHARACTERS:
            raise _invalid("it is too long")
        if not token.isascii():
            raise _invalid("it is not a token that we know")
        try:
            keys, key, claims = await self._verified(token)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired", reason="TOKEN_EXPIRED") from None
        except jwt.PyJWTError as error:
            raise _invalid(_WHY.get(type(error), "it is not a token that we know")) from None
        principal = self._principal(claims, keys, key)
        self._checked[token] = _Checked(principal, keys, keys.version())
        while len(self._checked) > _REMEMBERED:
            self._checked.popitem(last=False)
        return principal

    async def _verified(self, token: str) -> tuple[Keys, jwt.PyJWK, dict[str, Any]]:
        header = jwt.get_unverified_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError
        # Only to know whose keys to take; checked below with all the rest.
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        keys = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if keys is None:
            raise jwt.InvalidIssuerError
        key = await keys.find(key_id) if isinstance(key_id, str) else None
        if key is None or key.algorithm_name != algorithm:
            raise jwt.InvalidKeyError
        claims: dict[str, Any] = jwt.decode(
            token,
            key=key.key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": _NEEDED},
        )
        return keys, key, claims

    def _principal(self, claims: Mapping[str, Any], keys: Keys, key: jwt.PyJWK) -> Principal:
        subject = str(claims["sub"])
        if not 0 < len(subject) <= 200:
            raise _invalid("its subject is empty or too long")
        names = frozenset(_texts(_claim(claims, self._roles_claim)))
        roles = frozenset(role for role in Role if role.value in names)
        stores = frozenset(_texts(_claim(claims, self._stores_claim)))
        bound: Stores = ALL if "*" in stores else stores
        # RFC 9068: a client that got a token for itself, not for a person, is its subject.
        own = bool(subject == claims.get("client_id") or roles == {Role.CAMERA})

        def trusted() -> bool:
            now = keys.known(str(key.key_id))
            return now is not None and bool(now.key == key.key)

        return Principal(
            kind="client" if own else "person",
            name=subject,
            roles=roles,
            stores=bound,
            token_id=str(claims.get("jti", "")),
            # As PyJWT has read it; of one beyond all numbers, what it comes to.
            expires=float(min(int(claims["exp"]), _FOR_EVER)),
            trusted=trusted,
        )

    async def close(self) -> None:
        """Let go of the keys."""
        for keys in self._issuers.values():
            await keys.close()


_WHY: Final[Mapping[type[Exception], str]] = {
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "its issuer is not known",
    jwt.InvalidKeyError: "its key is not known",
    jwt.InvalidAlgorithmError: "its algorithm is not allowed",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidIssuedAtError: "it was issued in the future",
    jwt.MissingRequiredClaimError: f"it must have the claims {', '.join(_NEEDED)}",
}


def _invalid(why: str) -> Unauthenticated:
    return Unauthenticated(f"the token is not valid: {why}", reason="TOKEN_INVALID")


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, which may hold dots itself (`https://example.com/roles`), else by the way to it."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _texts(value: Any) -> list[str]:
    """A list of texts, or one text with spaces between (as OAuth writes scopes)."""
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
