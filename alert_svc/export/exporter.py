"""Gathers what there is of an alert and makes its case file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from typing import Any, Final

import cv2
import google.protobuf
import structlog
from poi.v1 import alert_pb2, history_pb2

from alert_svc.evidence import picture
from alert_svc.evidence.sources import Sources, choose, subject
from alert_svc.export import history
from alert_svc.export.archive import Archive, as_json
from alert_svc.export.records import ExportRecord, ExportRecords
from alert_svc.log import AlertLog
from alert_svc.times import now
from mesh.errors import MeshError, NotFound
from mesh.redis import Redis
from mesh.vault import PLAIN, Box

_log = structlog.get_logger(__name__)

PIECE_BYTES: Final = 256 << 10
_AT_ONCE: Final = 2
"""Case files that are put together side by side; more wait, so that memory stays bounded."""
_FORMAT: Final = "poi-mesh alert export 1"
_GONE: Final = "it was erased, or is older than what is kept"


class Exporter:
    """Makes case files."""

    def __init__(
        self, redis: Redis, log: AlertLog, sources: Sources, *, retention_days: float, box: Box = PLAIN
    ) -> None:
        """`retention_days`: how long it is remembered who exported an alert, at least. `box` seals that."""
        self._redis, self._log, self._sources = redis, log, sources
        self.records = self._records = ExportRecords(redis, retention_days=retention_days, box=box)
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def export(self, name: str, actor: str, purpose: str) -> AsyncGenerator[bytes, None]:
        """The pieces of a zip. That it was made is remembered before the first. Raises InvalidArgument, NotFound."""
        alert = await self._log.get(name)
        record = await self._records.add(name, actor, purpose, history.time_text(now()))
        _log.info("alert_exported", alert=name, export=record.export)
        async with self._room:
            file = await self._make(alert, record)
        try:
            await self._check_there(name)
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece
        finally:
            file.close()

    async def _check_there(self, name: str) -> None:
        """Raises NotFound where the person was erased meanwhile, whose receipt says nothing of this export."""
        try:
            await self._log.get(name)
        except NotFound:
            await self._records.forget(name)
            raise

    async def _make(self, alert: alert_pb2.Alert, record: ExportRecord) -> SpooledTemporaryFile[bytes]:
        archive = Archive(alert.create_time)
        try:
            await _add(archive, "alert.json", as_json(history.to_json(alert)), alert.name)
            events = await history.read(self._redis, self._log.kept, alert, await self._records.of(alert.name))
            await _add(archive, "history.json", as_json({"alert": alert.name, "events": events}), alert.name)
            await self._add_pictures(archive, alert)
            return await asyncio.to_thread(archive.finish, _about(alert, record))
        except BaseException:
            archive.abandon()
            raise

    async def _add_pictures(self, archive: Archive, alert: alert_pb2.Alert) -> None:
        evidence = alert.evidence
        try:
            frames = await self._sources.frames(alert.appearance)
        except MeshError as error:
            for file in ("frame.jpg", "face.jpg", "picture.jpg"):
                archive.miss(file, error.reason, f"{alert.appearance}: {error.message}")
        else:
            await self._add_frame(archive, alert, frames)
            if evidence.picture:
                await _try(archive, "picture.jpg", evidence.picture, lambda: self._sources.image(evidence.picture))
            else:
                archive.miss("picture.jpg", "NOT_MADE", "no picture was made of the alert (yet)")
        name = evidence.reference or alert.match.reference

        async def reference() -> bytes:
            return (await self._sources.reference(name)).image

        if name:
            await _try(archive, "reference.jpg", name, reference)
        else:
            archive.miss("reference.jpg", "NOT_SAID", "the alert names no reference")

    async def _add_frame(self, archive: Archive, alert: alert_pb2.Alert, frames: Sequence[history_pb2.Frame]) -> None:
        wanted = alert.evidence.frame
        kept = next((one for one in frames if one.name == wanted), None)
        frame = kept if wanted else choose(frames, alert.detect_time)
        if frame is None:
            why = (
                ("RESOURCE_NOT_FOUND", f"{wanted}: {_GONE}") if wanted else ("NO_FRAME", "the appearance has no frame")
            )
            for name in ("frame.jpg", "face.jpg"):
                archive.miss(name, *why)
            return
        image = await _try(archive, "frame.jpg", frame.name, lambda: self._sources.image(frame.name))
        face = subject(alert, frame, b"").face
        if image is None or face is None:
            detail = "there is no frame" if image is None else "it is not known where in the frame the face is"
            archive.miss("face.jpg", "NO_FRAME" if image is None else "NO_FACE_BOX", detail)
            return
        cut: bytes | None = None
        with suppress(picture.Undecodable):
            cut = await asyncio.to_thread(picture.crop_face, image, face)
        if cut is None:
            archive.miss("face.jpg", "UNDECODABLE", "the frame cannot be decoded, or does not hold the face")
        else:
            await _add(archive, "face.jpg", cut, frame.name)


async def _try(archive: Archive, file: str, source: str, read: Callable[[], Awaitable[bytes]]) -> bytes | None:
    """Adds what is read, or why it cannot be; the content."""
    try:
        content = await read()
    except NotFound as error:
        archive.miss(file, error.reason, f"{source}: {_GONE}")
        return None
    except MeshError as error:
        archive.miss(file, error.reason, f"{source}: {error.message}")
        return None
    await _add(archive, file, content, source)
    return content


async def _add(archive: Archive, file: str, content: bytes, source: str) -> None:
    await asyncio.to_thread(archive.add, file, content, source)


def _about(alert: alert_pb2.Alert, record: ExportRecord) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "alert": alert.name,
        "etag": alert.etag,
        "export": record.export,
        "actor": record.actor,
        "purpose": record.purpose,
        "time": record.time,
        "versions": {"opencv": cv2.__version__, "protobuf": google.protobuf.__version__},
    }
