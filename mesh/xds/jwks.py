"""The keys of tokens that the gateway takes, each issuer's its own: in a file that is watched, or asked of the issuer.

The control plane asks, so that Envoy needs no way out. What was had last stays good while an issuer cannot be reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

import httpx
import structlog
from watchfiles import awatch

from mesh.auth.keys import Published, public_jwks
from mesh.xds import metrics

_log = structlog.get_logger(__name__)


class IssuerKeys(Protocol):
    """The keys of one issuer."""

    def watch(self) -> AsyncGenerator[str, None]:
        """A JWKS whenever there is another one, the first at once; "" where none can be had yet."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""


class FileKeys:
    """A JWKS in a file, read again when it changes. One that is damaged or away leaves things as they are."""

    def __init__(self, issuer: str, path: Path) -> None:
        """Raises OSError; ValueError for what is no JWKS, or has no key."""
        self._path, self._trouble = path, _Trouble(issuer)
        self._known = public_jwks(path.read_bytes())

    async def watch(self) -> AsyncGenerator[str, None]:
        """See `IssuerKeys`."""
        yield self._known
        # The directory, and once a second in any case: as sources.file says.
        changes = awatch(
            self._path.parent, recursive=False, rust_timeout=1_000, yield_on_timeout=True, debounce=50, step=10
        )
        async for _ in changes:
            try:
                found = public_jwks(self._path.read_bytes())
            except (OSError, ValueError) as error:
                self._trouble.met(error, same=str(error))
                continue
            self._trouble.over()
            if found != self._known:
                self._known = found
                yield found

    async def close(self) -> None:
        """Nothing to do."""


class AskedKeys:
    """A JWKS at an address, or where the issuer's OIDC document says, asked for now and then."""

    def __init__(self, issuer: str, url: str, every_seconds: float) -> None:
        """`url`: empty is to ask the issuer. Raises ValueError for an address without TLS."""
        self._published, self._every = Published(url=url, issuer=issuer), every_seconds
        self._trouble = _Trouble(issuer)
        self._known: str | None = None

    async def watch(self) -> AsyncGenerator[str, None]:
        """See `IssuerKeys`."""
        while True:
            found = self._known or ""
            try:
                found = public_jwks(await self._published.read())
            except (httpx.HTTPError, ValueError) as error:
                self._trouble.met(error)
            else:
                self._trouble.over()
            if found != self._known:
                self._known = found
                yield found
            await asyncio.sleep(self._every)

    async def close(self) -> None:
        """Close the connections."""
        await self._published.close()


class _Trouble:
    """Says once that keys cannot be had, and once that they can again; counts each time."""

    def __init__(self, issuer: str) -> None:
        self._issuer, self._said = issuer, ""
        self._failures = metrics.ISSUER_FAILURES.labels(issuer)  # from now on there, as 0

    def met(self, error: Exception, same: str = "away") -> None:
        """What went wrong; said where `same` is not what it was before."""
        self._failures.inc()
        if self._said != same:
            self._said = same
            _log.error("jwks_not_usable", issuer=self._issuer, why=str(error) or type(error).__name__)

    def over(self) -> None:
        """It went well."""
        if self._said:
            self._said = ""
            _log.info("jwks_usable_again", issuer=self._issuer)


def keys_of(issuer: str, location: str, every_seconds: float) -> IssuerKeys:
    """The keys at a path or an https:// URL, or, where `location` is empty, those that the OIDC issuer names.

    Raises OSError or ValueError.
    """
    if not issuer:
        raise ValueError("an issuer needs a name")  # Envoy would take tokens of any
    if location and "://" not in location:
        return FileKeys(issuer, Path(location))
    return AskedKeys(issuer, location, every_seconds)
