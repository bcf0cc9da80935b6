"""The public keys of an issuer of tokens: a JWKS in a file, at an address, or where its OIDC document says."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import jwt
import orjson
import structlog

from mesh.errors import Unavailable

logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for each request
_log = structlog.get_logger(__name__)

ALGORITHMS: Final = frozenset({"ES256", "ES384", "RS256", "PS256", "EdDSA"})
"""Signatures with a private key; nothing that is checked with the key it was made with, and not `none`."""

_FRESH_SECONDS: Final = 600.0
_RETRY_SECONDS: Final = 30.0
"""The least between two questions to an issuer, whatever keys the tokens name that people send us."""
_TIMEOUT_SECONDS: Final = 5.0
_WHOLE_SECONDS: Final = 10.0
"""The most that an issuer may take, however busy it looks: people wait for it."""
_MAX_BYTES: Final = 1 << 20
_PUBLIC: Final = ("kty", "kid", "use", "crv", "x", "y", "n", "e")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Keys(Protocol):
    """The keys of one issuer."""

    def version(self) -> int:
        """Changes when keys do: what was checked with older ones has to be checked again. Cheap."""

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id. Raises Unavailable where no keys could be had yet."""

    def known(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id, as far as is known without asking anybody. Cheap."""

    async def close(self) -> None:
        """Let go of what it holds."""


class FileKeys:
    """Keys in a JWKS file, read again when it changes. One that is damaged leaves things as they are."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, or ValueError when it is not a JWKS."""
        self._path = path
        self._seen = self._signature()
        self._keys = parse(path.read_bytes())
        self._version = 0

    def version(self) -> int:
        """Changes when the file does."""
        seen = self._signature()
        if seen != self._seen:
            # Damaged or not: looked at once, not at every call, until it is another file again.
            self._seen = seen
            try:
                self._keys = parse(self._path.read_bytes())
            except (OSError, ValueError) as error:
                _log.warning("jwks_not_usable", path=str(self._path), why=str(error))
            else:
                self._version += 1
        return self._version

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id."""
        return self.known(key_id)

    def known(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id."""
        self.version()
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Nothing to do."""

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


class Published:
    """The JWKS of an issuer at an address, or where its OIDC document says."""

    def __init__(self, *, url: str = "", issuer: str = "", client: httpx.AsyncClient | None = None) -> None:
        """At `url`, else where the OIDC document of `issuer` says. Raises ValueError for an address without TLS."""
        self._url, self._issuer = url, issuer
        check_url(url or issuer)
        self._client = client or httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, follow_redirects=False)

    async def read(self) -> bytes:
        """What is there now. Raises httpx.HTTPError or ValueError."""
        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                return await self._get(self._url or await self._discover())
        except TimeoutError:
            raise ValueError(f"{self._url or self._issuer}: no whole answer in {_WHOLE_SECONDS:g} s") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _discover(self) -> str:
        document = orjson.loads(await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"))
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ValueError("the OIDC document is of another issuer")
        url = str(document.get("jwks_uri", ""))
        check_url(url)
        return url

    async def _get(self, url: str) -> bytes:
        body = bytearray()
        async with self._client.stream("GET", url) as response:
            response.raise_for_status()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"{url}: more than {_MAX_BYTES} bytes")
        return bytes(body)


class UrlKeys:
    """Keys at an address, kept for ten minutes, and longer where the issuer does not answer.

    A token with a key that is not known makes it ask at once, but not more often than every 30 s.
    """

    def __init__(
        self,
        *,
        url: str = "",
        issuer: str = "",
        client: httpx.AsyncClient | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At `url`, else where the OIDC document of `issuer` says. Raises ValueError for an address without TLS."""
        self._name, self._clock = issuer or url, clock
        self._published = Published(url=url, issuer=issuer, client=client)
        self._keys: Mapping[str, jwt.PyJWK] | None = None
        self._content = b""
        self._read_at = self._asked_at = float("-inf")
        self._version = 0
        self._asking: asyncio.Task[None] | None = None

    def version(self) -> int:
        """Changes when other keys have come. Asks for them in the background, when it is time to."""
        self._ask_if(self._clock() - self._read_at > _FRESH_SECONDS)
        return self._version

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id."""
        unknown = self._keys is None or key_id not in self._keys
        self._ask_if(unknown or self._clock() - self._read_at > _FRESH_SECONDS)
        if unknown and self._asking is not None:
            await asyncio.shield(self._asking)
        if self._keys is None:
            raise Unavailable(
                "the issuer's keys cannot be had", reason="ISSUER_UNAVAILABLE", retry_after=_RETRY_SECONDS
            )
        return self._keys.get(key_id)

    def known(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id, of those that came last."""
        self.version()
        return (self._keys or {}).get(key_id)

    async def close(self) -> None:
        """Close the connections."""
        if self._asking is not None:
            self._asking.cancel()
        await self._published.close()

    def _ask_if(self, due: bool) -> None:
        now = self._clock()
        if due and now - self._asked_at > _RETRY_SECONDS:
            self._asked_at = now
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        try:
            content = await self._published.read()
            keys = parse(content)
        except (httpx.HTTPError, ValueError) as error:
            _log.warning("jwks_not_usable", issuer=self._name, why=str(error) or type(error).__name__)
            return
        self._read_at = self._clock()
        if content != self._content:
            self._version += 1
        self._keys, self._content = keys, content


def keys_of(location: str, issuer: str) -> Keys:
    """The keys at a path or an https:// URL, or, where `location` is empty, those that the OIDC issuer names.

    Raises OSError or ValueError.
    """
    if not location:
        return UrlKeys(issuer=issuer)
    if "://" in location:
        return UrlKeys(url=location, issuer=issuer)
    return FileKeys(Path(location))


def parse(content: bytes) -> dict[str, jwt.PyJWK]:
    """The keys of a JWKS that tokens may be signed with, by id. Raises ValueError when it is none."""
    return {key_id: key for key_id, (key, _) in _usable(content).items()}


def public_jwks(content: bytes) -> str:
    """A JWKS of exactly the keys that `parse` finds, each with its algorithm, for others who check tokens.

    Raises ValueError when it is none, or has no such key.
    """
    found = _usable(content)
    if not found:
        raise ValueError("has no key that tokens may be signed with")
    keys = [
        {name: entry[name] for name in _PUBLIC if name in entry} | {"alg": key.algorithm_name}
        for key, entry in found.values()
    ]
    return orjson.dumps({"keys": keys}).decode()


def _usable(content: bytes) -> dict[str, tuple[jwt.PyJWK, dict[str, Any]]]:
    document = orjson.loads(content)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("is not a JWKS")
    found: dict[str, tuple[jwt.PyJWK, dict[str, Any]]] = {}
    for entry in listed:
        key = _key(entry)
        if key is not None and isinstance(key.key_id, str) and key.key_id:
            found[key.key_id] = key, entry
    return found


def _key(entry: Any) -> jwt.PyJWK | None:
    """None for what we do not use: other kinds of keys, or keys for something else."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(entry)
    except jwt.PyJWTError:
        return None
    return key if key.algorithm_name in ALGORITHMS else None


def check_url(url: str) -> None:
    """Raises ValueError unless it is https, or on this machine."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r}: {error}") from None
    if parsed.scheme != "https" and not (parsed.scheme == "http" and parsed.host in _LOOPBACK):
        raise ValueError(f"{url!r} is not an https:// address")
