"""Durable objects by key, in a local directory or in an object store that obstore reaches (S3 and others).

The one place that knows obstore's errors: each becomes one of mesh.errors.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from history_svc import metrics
from history_svc.segments import fsync_directory
from mesh.errors import MeshError, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

_log = structlog.get_logger(__name__)

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")
_LISTED_AT_ONCE: Final = 1000
"""As many as S3 deletes with one request."""
# Whoever waits asks again: an outage is better told within seconds than sat out for the library's three minutes.
_RETRY: Final[RetryConfig] = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}


class Listed(NamedTuple):
    """An object that is there."""

    key: str
    modified: datetime
    """When it was written, by the clock of what holds it."""


def remote(url: str) -> ObjectStore:
    """The object store at `s3://...` or another URL of obstore. Asks it nothing yet.

    Credentials and endpoint are those of the environment (AWS_*). Raises ValueError.
    """
    _check_endpoint()
    try:
        return from_url(url, retry_config=_RETRY)  # client options here would displace those of the environment
    except BaseError as error:
        raise ValueError(_first_line(error)) from None


def _check_endpoint() -> None:
    """What is wrong here would panic inside the library, or fail with each frame."""
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        endpoint = os.environ.get(name, "")
        if endpoint and not re.fullmatch(r"https?://[^\s/?#@:]+(:\d{1,5})?(/[^\s?#]*)?", endpoint):
            raise ValueError(f"{name} is not http[s]://HOST[:PORT]")
        if endpoint.startswith("http:") and os.environ.get("AWS_ALLOW_HTTP", "").lower() not in ("true", "1"):
            raise ValueError(f"{name} has no TLS: use https, or set AWS_ALLOW_HTTP=true")


def directory_of(url: str) -> Path:
    """The directory of a `file:///...` URL. Raises ValueError."""
    parts = urlsplit(url)
    if parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise ValueError("is not file:///DIRECTORY")
    return Path(unquote(parts.path))


class Objects:
    """See the module. Awaited calls raise mesh.errors.ResourceExhausted when the disk is full, else Unavailable."""

    def __init__(self, store: ObjectStore, directory: Path | None = None) -> None:
        """`directory` where the store is one, as it does not make what it writes durable by itself."""
        self._store, self._directory = store, directory
        self._durable: set[Path] = set()
        """Directories whose names are known to survive a power cut."""

    @classmethod
    def local(cls, directory: Path) -> Objects:
        """Those in a directory, which is made. Raises OSError."""
        directory = directory.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        fsync_directory(directory.parent)
        return cls(LocalStore(directory), directory)

    async def put(self, key: str, content: bytes) -> None:
        """Makes an object durable, in place of one that is there.

        One whose put failed may be there all the same: put it again, or remove it.
        """
        with _errors("put"):
            await obstore.put_async(self._store, key, content, use_multipart=False)
            if self._directory is not None:
                await asyncio.to_thread(self._sync, self._directory, self._directory / key)

    async def get(self, key: str) -> bytes | None:
        """The content, None where there is no such object."""
        with _errors("get"):
            try:
                found = await obstore.get_async(self._store, key)
                return bytes(await found.bytes_async())
            except FileNotFoundError:
                return None

    async def remove(self, keys: Sequence[str]) -> None:
        """Removes objects; those that are not there are none."""
        with _errors("remove"):
            try:
                await obstore.delete_async(self._store, keys)
            except FileNotFoundError:  # a directory says so, S3 does not; the others may still be there
                for key in keys:
                    with suppress(FileNotFoundError):
                        await obstore.delete_async(self._store, key)
            if self._directory is not None:
                folders = {(self._directory / key).parent for key in keys}
                await asyncio.to_thread(_sync_folders, folders)

    async def folders(self, prefix: str = "") -> list[str]:
        """The next parts of keys below `prefix`, sorted: as directories are named."""
        with _errors("list"):
            found = await obstore.list_with_delimiter_async(self._store, prefix or None)
        return sorted(one.rstrip("/").rpartition("/")[2] for one in found["common_prefixes"])

    async def list(self, prefix: str) -> AsyncIterator[list[Listed]]:
        """All objects below `prefix`, some at a time."""
        chunks = obstore.list(self._store, prefix, chunk_size=_LISTED_AT_ONCE)
        while True:
            with _errors("list"):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield [Listed(one["path"], one["last_modified"]) for one in chunk]

    async def remove_below(self, prefix: str) -> int:
        """Removes all objects below `prefix`; returns how many. Of a directory also what a crash left of a `put`."""
        removed = 0
        async for found in self.list(prefix):
            await self.remove([one.key for one in found])
            removed += len(found)
        if self._directory is not None:
            with _errors("remove"):
                await asyncio.to_thread(self._remove_folder, self._directory, self._directory / prefix)
        return removed

    async def remove_drafts(self, prefix: str, before: datetime) -> int:
        """Removes from a directory what a crash before then left of a `put`. Object stores keep no such thing."""
        if self._directory is None:
            return 0
        with _errors("remove"):
            return await asyncio.to_thread(_remove_drafts, self._directory / prefix, before.timestamp())

    def _sync(self, root: Path, path: Path) -> None:
        # obstore's directories write aside and rename, but never fsync (seen with strace).
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        folder = path.parent
        fsync_directory(folder)
        made = set()
        while folder != root and folder not in self._durable:
            fsync_directory(folder.parent)
            made.add(folder)
            folder = folder.parent
        self._durable |= made  # only now: who finds one of them here looks no further

    def _remove_folder(self, root: Path, folder: Path) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        self._durable.discard(folder)
        parent = folder.parent
        if parent != root:
            try:
                parent.rmdir()
            except OSError:  # there is more in it
                return
            self._durable.discard(parent)


def _sync_folders(folders: set[Path]) -> None:
    for folder in folders:
        with suppress(FileNotFoundError):
            fsync_directory(folder)


def _remove_drafts(folder: Path, before: float) -> int:
    removed = 0
    for path in folder.glob("*#*"):  # how obstore names them; it lists none
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()
                removed += 1
    return removed


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        metrics.OBJECT_FAILURES.labels(what).inc()
        _log.error("object_store_failed", what=what, error=_first_line(error))
        raise _refusal(error) from error


def _refusal(error: Exception) -> MeshError:
    if isinstance(error, OSError):
        number = error.errno
    else:  # a disk's errors have lost their type on the way
        found = _OS_ERROR.search(_first_line(error))
        number = int(found[1]) if found else None
    if number in _FULL:
        return ResourceExhausted("the disk is full: the frame is not stored", reason="DISK_FULL", retry_after=1.0)
    return Unavailable("the store of frames does not answer", reason="FRAMES_UNAVAILABLE", retry_after=1.0)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
