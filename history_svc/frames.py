"""Evidence frames: JPEGs in an object store, `{YYYYMMDD}/{HH}/{frame id}.jpg` by the hour (UTC) they were taken in.

So retention drops whole hours and needs no list of frames.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from history_svc.objects import Objects, directory_of, remote
from history_svc.records import Frame
from history_svc.seam import Seam
from mesh.errors import DataLoss

_PART_BYTES: Final = 64 << 10
_HOUR_NS: Final = 3_600_000_000_000
_ORPHAN_HOURS: Final = 4
# Markers without a length (T.81, B.1.1.3): fill, TEM, RSTn, SOI; and those that begin a frame and hold its size.
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAME_HEADERS: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})

Known = Callable[[list[str]], Awaitable[Collection[str]]]


def frame_id(camera: str, time_ns: int, image: bytes) -> str:
    """32 hex digits that depend only on what is given, so that a repeat is the same frame."""
    digest = hashlib.blake2b(f"{camera}\0{time_ns}\0".encode(), digest_size=16)
    digest.update(hashlib.blake2b(image, digest_size=16).digest())
    return digest.hexdigest()


def is_jpeg(image: bytes) -> bool:
    """Whether this is a JPEG: markers from SOI to a frame header that gives a size. Its pixels are not decoded."""
    if image[:2] != b"\xff\xd8":
        return False
    at = 2
    while at + 9 <= len(image):
        if image[at] != 0xFF:
            return False
        marker = image[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker in _FRAME_HEADERS:
            # Only the width: a height of 0 is allowed, it is said later in the scan (DNL).
            return image[at + 7 : at + 9] != b"\0\0"
        at += 2 + max(2, int.from_bytes(image[at + 2 : at + 4], "big"))
    return False


class FrameStore:
    """Frames, each sealed as a whole.

    Not in sealed parts: a frame came in one message and has a size limit, so that memory holds one anyway; and a whole
    one is checked before its first byte goes out.
    """

    def __init__(self, objects: Objects, seam: Seam) -> None:
        self._objects, self._seam = objects, seam
        self._opened = datetime.now(UTC)
        self._saved: set[str] | None = set()  # since then; None when orphans are removed
        self._doomed: set[str] = set()
        self._removing = asyncio.Lock()
        self._dropped_hour = -1

    @classmethod
    def open(cls, url: str, default: Path, seam: Seam) -> FrameStore:
        """The frames at a `frames_url` of settings, in the directory `default` where it is empty. Blocks.

        Raises ValueError for a URL that is none, OSError for a directory that cannot be made.
        """
        if not url or url.startswith("file:"):
            return cls(Objects.local(directory_of(url) if url else default), seam)
        return cls(Objects(remote(url)), seam)

    async def save(self, frame: Frame, image: bytes) -> None:
        """Makes a frame durable; one that is there is written again, which repairs it.

        Raises mesh.errors.ResourceExhausted when the disk is full, Unavailable when the store does not take it.
        """
        if self._saved is not None:
            self._saved.add(frame.id)
            if frame.id in self._doomed:  # left by a crash, and on its way out: it is written after that
                async with self._removing:
                    pass
        await self._objects.put(_key(frame), await asyncio.to_thread(self._seam.seal, image))

    async def parts(self, frame: Frame) -> AsyncIterator[bytes]:
        """The image in parts of at most 64 KiB.

        Raises mesh.errors.DataLoss when it is gone or damaged, Unavailable when the store does not answer.
        """
        content = await self._objects.get(_key(frame))
        if content is None:
            raise DataLoss(f"the image of frame {frame.id} is gone", reason="FRAME_LOST")
        image = await asyncio.to_thread(self._open, frame, content)
        for start in range(0, len(image), _PART_BYTES):
            yield image[start : start + _PART_BYTES]

    async def remove(self, frames: Iterable[Frame]) -> None:
        """Removes frames, for good when it returns; those that are not there are none. Raises as `save`."""
        keys = [_key(frame) for frame in frames]
        if keys:
            await self._objects.remove(keys)

    async def drop_before(self, time_ns: int) -> int:
        """Removes the frames of all hours that ended before then; returns how many. Raises as `save`.

        Asks the store once an hour only.
        """
        dropped, hour = 0, time_ns // _HOUR_NS
        if hour == self._dropped_hour:
            return 0
        for start_ns, prefix in await self._hours():
            if start_ns + _HOUR_NS <= time_ns:
                dropped += await self._objects.remove_below(prefix)
        self._dropped_hour = hour
        return dropped

    async def remove_orphans(self, known: Known) -> int:
        """Removes what an earlier process wrote and was killed before it could record; returns how many.

        `known` gives those of some frame ids that are recorded. Looks at the newest hours only, so that it is cheap;
        the orphans of a camera whose clock is hours late go by retention. Do it once. Raises as `save`.
        """
        removed = 0
        for _, prefix in (await self._hours())[-_ORPHAN_HOURS:]:
            removed += await self._objects.remove_drafts(prefix, self._opened)
            async for listed in self._objects.list(prefix):
                async with self._removing:
                    removed += await self._remove_unknown(
                        {_id(one.key): one.key for one in listed if one.modified < self._opened}, known
                    )
        self._saved = None
        return removed

    async def _remove_unknown(self, keys: dict[str, str], known: Known) -> int:
        unknown = keys.keys() - set(await known(list(keys)))
        # A frame that is being saved again is not recorded yet: it stays.
        self._doomed = unknown - (self._saved or set())
        try:
            if self._doomed:
                await self._objects.remove([keys[one] for one in self._doomed])
            return len(self._doomed)
        finally:
            self._doomed = set()

    async def _hours(self) -> list[tuple[int, str]]:
        """(start in ns, prefix) of the hours that have frames, in order."""
        found = []
        for day in await self._objects.folders():
            if not re.fullmatch(r"\d{8}", day):  # not ours
                continue
            for hour in await self._objects.folders(day):
                with suppress(ValueError):
                    moment = datetime.strptime(day + hour, "%Y%m%d%H").replace(tzinfo=UTC)
                    found.append((int(moment.timestamp()) * 1_000_000_000, f"{day}/{hour}"))
        return sorted(found)

    def _open(self, frame: Frame, content: bytes) -> bytes:
        try:
            image = self._seam.open(content)
        except ValueError:
            image = b""
        if frame_id(frame.camera, frame.time_ns, image) != frame.id:
            raise DataLoss(f"the image of frame {frame.id} is damaged", reason="FRAME_LOST")
        return image


def _key(frame: Frame) -> str:
    moment = datetime.fromtimestamp(frame.time_ns // 1_000_000_000, UTC)
    return f"{moment:%Y%m%d/%H}/{frame.id}.jpg"


def _id(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".jpg")
