"""Erasures in Qdrant. Calls block; of one thread at a time, in each process.

Whoever is writing at the same time must not bring anything back: an appearance that goes leaves a point that no write
is newer than, and so does each of its detections, those included that are counted and not there yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import Final

import orjson
import structlog
from qdrant_client import models

from history_svc import metrics
from history_svc.appearances import Appearance
from history_svc.erasure import Receipt, check_repeat
from history_svc.frames import FrameStore
from history_svc.qdrant.collections import FACE
from history_svc.qdrant.database import Database, equals, one_of, point_id, with_id
from history_svc.qdrant.index import detection_point_id
from history_svc.qdrant.reads import QdrantReads
from history_svc.qdrant.states import (
    erased_point,
    frame_point_id,
    pack_appearance,
    read_frame,
    unpack_appearance,
    uuid_of,
)
from history_svc.qdrant.tracks import Tracks
from history_svc.records import Frame, Track
from mesh import names
from mesh.errors import NotFound, Unavailable

_ATTEMPTS: Final = 50
_LEFT_ALONE_NS: Final = 60 * 1_000_000_000
_log = structlog.get_logger(__name__)


class Eraser:
    """See the module."""

    def __init__(self, database: Database, reads: QdrantReads, tracks: Tracks) -> None:
        self._database, self._reads, self._tracks = database, reads, tracks

    def erasure_id(self, request_id: str) -> str:
        """The id, 32 hex digits, of the erasure that is asked for with this request id."""
        return point_id("erasure", self._database.store, request_id).replace("-", "")

    def known(self, erasure_id: str) -> Receipt | None:
        """The receipt of an erasure, done or not."""
        key = self._record_id(erasure_id)
        found = self._database.get(self._database.records, [key])
        return Receipt(**orjson.loads(found[key]["receipt"])) if key in found else None

    def unfinished(self) -> list[Receipt]:
        """The erasures that are not done."""
        wanted = self._database.where(equals("kind", "erasure"), equals("version", "begun"))
        points = self._database.scroll(self._database.records, wanted, ["receipt"])
        return [Receipt(**orjson.loads((one.payload or {})["receipt"])) for one in points]

    def plan(self, appearances: Collection[bytes]) -> Receipt:
        """What an erasure of these would remove. Raises NotFound, Unavailable."""
        return self._plan(appearances)[0]

    def begin(
        self, appearances: Collection[bytes], request_id: str, frames: Collection[str] = (), content: str = ""
    ) -> Receipt:
        """Writes down what is to go; the same request twice is one. Raises NotFound, Unavailable."""
        receipt, going = self._plan(appearances)
        others = [link.frame for link in map(self._reads.linked, frames) if link is not None]
        count = len({one.id for one in (*self._frames(going), *others)})
        receipt = replace(receipt, frames=count, content=content)
        receipt = replace(receipt, id=self.erasure_id(request_id), request_id=request_id, begun_ns=time.time_ns())
        # Where it has begun already, it stays as it was.
        nobody = models.Filter(must=[equals("kind", "nothing")])
        self._database.put(self._database.records, [self._record(receipt, going.values(), others)], only=nobody)
        return self.known(receipt.id) or receipt

    def finish(self, erasure_id: str) -> list[Frame]:
        """Removes what `begin` wrote down, and makes sure that it is gone; returns the frames whose images are to go.

        Call `done` when these are gone. Raises Unavailable; may be done again.
        """
        record = self._database.get(self._database.records, [self._record_id(erasure_id)])
        (payload,) = record.values()
        going = {one.id: one for one in map(unpack_appearance, orjson.loads(payload["state"]))}
        others = [Frame(*one) for one in orjson.loads(payload.get("frames", "[]"))]
        frames = list({one.id: one for one in (*self._frames(going), *others)}.values())
        # Late arrivals do not find them any more, and nobody who has one in mind gets it back here.
        graves = [erased_point(self._database.store, one) for one in going.values()]
        self._database.put(self._database.records, graves)
        shown = [one for one in self._reads.showing([one.id for one in frames]) if one.id not in going]
        unwritten = self._forget(going, frames, shown)
        self._remove_detections(going, unwritten)
        self._verify(going)
        return frames

    def done(self, receipt: Receipt, frames: Sequence[Frame]) -> Receipt:
        """Removes the frames' points, as their images are gone, and ends the erasure."""
        if frames:
            wanted = [frame_point_id(self._database.store, one.id) for one in frames]
            self._database.remove(self._database.records, self._database.where(with_id(wanted)))
        receipt = replace(receipt, done_ns=time.time_ns())
        self._database.put(self._database.records, [self._record(receipt, ())])
        _log.info("erased", erasure=receipt.id, appearances=receipt.appearances, detections=receipt.detections)
        return receipt

    def take_over(self, receipt: Receipt, detections: Mapping[bytes, bytes]) -> None:
        """An erasure that was done elsewhere: these detections, of these appearances, do not come back."""
        self._remove_detections((), detections)
        self._database.put(self._database.records, [self._record(receipt, ())])

    def _plan(self, appearances: Collection[bytes]) -> tuple[Receipt, dict[bytes, Appearance]]:
        found = self._reads.with_ids(set(appearances))
        for one in appearances:
            if one not in found:
                raise NotFound(names.appearance(self._database.store, one.hex()))
        receipt = Receipt(
            "",
            "",
            begun_ns=0,
            done_ns=0,
            appearances=len(found),
            detections=self._database.count(self._database.detections, self._of(found)),
            faces=sum(one.face_count for one in found.values()),
            frames=len(self._frames(found)),
        )
        return receipt, found

    def _forget(
        self, going: Mapping[bytes, Appearance], frames: Collection[Frame], others: Iterable[Appearance]
    ) -> dict[bytes, bytes]:
        """Takes them out of their tracks, and the frames off `others`; returns detections that are not there yet."""
        gone = {one.id for one in frames}
        shown = list(others)
        tracks: set[Track] = {(one.camera, one.object_id) for one in (*going.values(), *shown)}
        unwritten: dict[bytes, bytes] = {}
        for _ in range(_ATTEMPTS):
            states = self._tracks.read(tracks)
            for one in shown:
                states[one.camera, one.object_id].appearances.setdefault(one.id, one)
            changed: set[bytes] = set()
            for state in states.values():
                unwritten |= {key: one for key, one in state.pending.items() if one in going}
                state.pending = {key: one for key, one in state.pending.items() if one not in going}
                state.appearances = {key: one for key, one in state.appearances.items() if key not in going}
                for one in state.appearances.values():
                    kept = tuple(frame for frame in one.frames if frame.id not in gone)
                    if kept != one.frames:
                        one.frames = kept
                        changed.add(one.id)
            if not states or self._tracks.write(list(states.values()), changed):
                self._tracks.show(states.values(), changed)
                return unwritten
        raise Unavailable("others write the same tracks all the time", reason="CONFLICT", retry_after=1.0)

    def _remove_detections(self, going: Collection[bytes], unwritten: Mapping[bytes, bytes]) -> None:
        """Writes over them rather than delete them: one that is on its way never finds its place empty."""
        store, now_us = self._database.store, time.time_ns() // 1000
        graves = [(detection_point_id(store, key), uuid_of(one), now_us) for key, one in unwritten.items()]
        stored = self._database.scroll(self._database.detections, self._of(going), ["appearance_id", "time_us"])
        for point in stored if going else ():
            payload = point.payload or {}
            graves.append((str(point.id), payload["appearance_id"], payload["time_us"]))
        points = [
            models.PointStruct(
                id=key, vector={}, payload={"store": store, "erased": True, "was": was, "time_us": time_us}
            )
            for key, was, time_us in graves
        ]
        self._database.put(self._database.detections, points)

    def _verify(self, going: Collection[bytes]) -> None:
        faces = self._database.where(models.HasVectorCondition(has_vector=FACE), equals("erased", value=True))
        left = self._database.count(self._database.detections, self._of(going))
        left += self._database.count(self._database.detections, faces) + len(self._reads.with_ids(going))
        if left:
            raise Unavailable(f"{left} points are still there after they were erased", reason="INDEX_UNAVAILABLE")

    def _frames(self, appearances: Mapping[bytes, Appearance]) -> list[Frame]:
        """Those that these have, and those that were written for them and that they do not have yet."""
        found = {frame.id: frame for one in appearances.values() for frame in one.frames}
        said = self._database.where(equals("kind", "frame"), one_of("shows", map(uuid_of, appearances)))
        for point in self._database.scroll(self._database.records, said, ["state"]):
            frame = read_frame(point.payload or {})
            found[frame.id] = frame
        return list(found.values())

    def _of(self, appearances: Iterable[bytes]) -> models.Filter:
        return self._database.where(one_of("appearance_id", map(uuid_of, appearances)))

    def _record_id(self, erasure_id: str) -> str:
        return point_id("erasure record", self._database.store, erasure_id)

    def _record(
        self, receipt: Receipt, going: Iterable[Appearance], frames: Iterable[Frame] = ()
    ) -> models.PointStruct:
        """Without a face: what has to go is all that it says of anybody."""
        payload = {
            "store": self._database.store,
            "kind": "erasure",
            "version": "done" if receipt.done_ns else "begun",
            "receipt": orjson.dumps(asdict(receipt)).decode(),
            "state": orjson.dumps([pack_appearance(one, face=False) for one in going]).decode(),
            "frames": orjson.dumps([[one.id, one.camera, one.time_ns, one.kind, one.size] for one in frames]).decode(),
        }
        return models.PointStruct(id=self._record_id(receipt.id), vector={}, payload=payload)


class QdrantErasing:
    """Erasures: `history.HistoryErasing`. Of the loop's thread."""

    def __init__(self, eraser: Eraser, frames: FrameStore, writer: ThreadPoolExecutor) -> None:
        """`writer` is the one thread that writes tracks."""
        self._eraser, self._frames, self._writer = eraser, frames, writer

    async def plan(self, appearances: Collection[bytes]) -> Receipt:
        """What `erase` would remove; it names no erasure. Raises NotFound."""
        return await asyncio.to_thread(self._eraser.plan, appearances)

    async def erase(
        self, appearances: Collection[bytes], request_id: str, frames: Collection[str] = (), content: str = ""
    ) -> Receipt:
        """As HistoryErasing says."""
        known = await self.receipt(self._eraser.erasure_id(request_id))
        if known is None and not appearances and not frames:
            return Receipt("", request_id, 0, 0, 0, 0, 0, 0)
        if known is None:
            known = await asyncio.to_thread(self._eraser.begin, appearances, request_id, frames, content)
            metrics.ERASED.inc(known.appearances)
        check_repeat(known, content)
        return known if known.done_ns else await self._finish(known)

    async def receipt(self, erasure_id: str) -> Receipt | None:
        """The receipt of an erasure, done or not."""
        return await asyncio.to_thread(self._eraser.known, erasure_id)

    async def unfinished(self, prefix: str) -> list[str]:
        """Request ids with this prefix of erasures that are not done."""
        pending = await asyncio.to_thread(self._eraser.unfinished)
        return [one.request_id for one in pending if one.request_id.startswith(prefix)]

    async def finish_others(self) -> None:
        """Finishes what somebody began a while ago, and was killed. Raises MeshError."""
        before_ns = time.time_ns() - _LEFT_ALONE_NS
        for receipt in await asyncio.to_thread(self._eraser.unfinished):
            if receipt.begun_ns < before_ns:
                await self._finish(receipt)

    async def _finish(self, receipt: Receipt) -> Receipt:
        finish = partial(self._eraser.finish, receipt.id)
        frames = await asyncio.get_running_loop().run_in_executor(self._writer, finish)
        await self._frames.remove(frames)
        return await asyncio.to_thread(self._eraser.done, receipt, frames)
