"""Keys that sign tokens, and the tokens."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.auth.tokens import LOCAL_ISSUER
from mesh.pki.files import write
from mesh.principal import Role

_ALGORITHM: Final = "ES256"
LONGEST: Final = timedelta(days=31)
"""A token cannot be called back but with its key: nobody needs one for longer."""


class AccountsError(Exception):
    """It cannot be done; the text says why."""


class Accounts:
    """The keys in a directory. The newest signs; `drop_old` ends the tokens of the others."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def jwks(self) -> Path:
        """The public halves, for servers."""
        return self._directory / "jwks.json"

    def add_key(self) -> str:
        """Make a key, which signs from now on; its id. Tokens of older ones stay good."""
        made = ec.generate_private_key(ec.SECP256R1())
        # Names sort by age.
        key_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(4)}"
        pem = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write(self._directory / f"{key_id}.pem", pem)
        self._publish()
        return key_id

    def drop_old(self) -> int:
        """Remove all keys but the newest; how many. Servers that read the new JWKS take no tokens of them."""
        old = self._files()[:-1]
        for path in old:
            path.unlink()
        self._publish()
        return len(old)

    def issue(
        self,
        subject: str,
        roles: Collection[Role],
        stores: Collection[str],
        lifetime: timedelta,
        *,
        audience: str = "poi-mesh",
        client: bool = False,
    ) -> str:
        """A token; the first one makes a key. `client`: of a program, not of a person. "*" is every store.

        Raises AccountsError, or OSError.
        """
        if not subject or len(subject) > 200:
            raise AccountsError("a subject has 1 to 200 characters")
        if not roles or not stores:
            raise AccountsError("a token without a role or without a store is good for nothing")
        if not timedelta(0) < lifetime <= LONGEST:
            raise AccountsError(f"a token lives for {LONGEST.days} days at most")
        if not self._files():
            self.add_key()
        path = self._files()[-1]
        now = datetime.now(UTC)
        claims: dict[str, Any] = {
            "iss": LOCAL_ISSUER,
            "aud": audience,
            "sub": subject,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": secrets.token_hex(8),
            "roles": sorted(role.value for role in roles),
            "stores": sorted(stores),
        }
        if client:
            claims["client_id"] = subject
        return jwt.encode(claims, _read(path), algorithm=_ALGORITHM, headers={"kid": path.stem})

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("*.pem"))

    def _publish(self) -> None:
        keys = []
        for path in self._files():
            public = jwt.algorithms.ECAlgorithm.to_jwk(_read(path).public_key(), as_dict=True)
            keys.append({**public, "kid": path.stem, "alg": _ALGORITHM, "use": "sig"})
        write(self.jwks, orjson.dumps({"keys": keys}, option=orjson.OPT_INDENT_2), 0o644)


def _read(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise AccountsError(f"{path}: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AccountsError(f"{path}: is not an elliptic curve key")
    return key
