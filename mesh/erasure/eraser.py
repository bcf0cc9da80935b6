"""Carries erasures out, each until it is done: every keeper erases, then every keeper is asked what is left.

Whoever is killed, and whenever: what has begun is in Redis, every step may be done again, and a receipt is only made
when all keepers have said that nothing is left. Last, files that still hold what was deleted are written anew.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Final

import structlog
from poi.v1 import erasure_pb2
from redis.exceptions import RedisError

from mesh.erasure.keepers import Asked, explained
from mesh.erasure.looking import Looking
from mesh.erasure.receipts import Signer, content_of
from mesh.erasure.store import Erasures
from mesh.errors import MeshError
from mesh.names import parse_person_erasure, parse_store
from mesh.names import store as store_name
from mesh.traces import added_to

_log = structlog.get_logger(__name__)
_ROUNDS: Final = 5
"""How often what came meanwhile is erased at once; then it is a matter of waiting."""
_PAUSE_SECONDS: Final = 0.3
DONE: Final = erasure_pb2.ERASURE_STATE_DONE
_INCOMPLETE: Final = erasure_pb2.ERASURE_STATE_INCOMPLETE


class _Work:
    """An erasure that is being carried out here."""

    def __init__(self) -> None:
        self.tried = asyncio.Event()
        """All keepers were asked once more."""
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Eraser:
    """See the module. Run `run` in the background: it goes on with what a server before this one had begun."""

    def __init__(self, erasures: Erasures, keepers: Mapping[str, Asked], signer: Signer, retry_seconds: float) -> None:
        """`keepers`, by name, in the order of erasing."""
        self._erasures, self._keepers, self._signer = erasures, keepers, signer
        self._looking = Looking(keepers)
        self._retry_seconds = retry_seconds
        self._working: dict[str, _Work] = {}

    async def run(self) -> None:
        """Takes up what is not done, for ever: another server may have begun it and be gone."""
        try:
            while True:
                for name in await self._erasures.open():
                    self._start(name)
                await asyncio.sleep(self._retry_seconds)
        finally:
            tasks = [work.task for work in self._working.values() if work.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def carry_out(self, name: str) -> None:
        """Returns when it is done, or all keepers were asked once and some have not done it."""
        work = self._start(name)
        work.tried.clear()
        work.wake.set()
        await work.tried.wait()

    def _start(self, name: str) -> _Work:
        work = self._working.get(name)
        if work is None:
            work = self._working[name] = _Work()
            work.task = asyncio.create_task(self._work(name, work), name=f"erase {name}")
        return work

    async def _work(self, name: str, work: _Work) -> None:
        try:
            while True:
                work.wake.clear()
                try:
                    done = await self._try(name)
                except (RedisError, OSError, MeshError) as error:
                    _log.warning("erasure_interrupted", erasure=name, error=type(error).__name__)
                    done = False
                if done:
                    return
                if not work.wake.is_set():
                    work.tried.set()
                try:
                    async with asyncio.timeout(self._retry_seconds):
                        await work.wake.wait()
                except TimeoutError:
                    pass
        finally:
            self._working.pop(name, None)
            work.tried.set()

    async def _try(self, name: str) -> bool:
        """Asks all keepers; whether the erasure is done."""
        kept = await self._erasures.get(name)
        if kept is None:
            return True
        if kept.subject is None:
            await self._erasures.close(kept.erasure)
            return True
        record, subject = kept.erasure, kept.subject
        parent = store_name(parse_person_erasure(name)[0])
        for attempt in range(_ROUNDS):
            if attempt:
                await asyncio.sleep(_PAUSE_SECONDS)
            obstacles = await self._erase(name, parent, subject)
            if not obstacles:
                obstacles = await self._look_again(name, parent, subject)
            if not obstacles:
                obstacles = await self._erase(name, parent, subject, purge=uuid.uuid4().hex)
            if not obstacles:
                return await self._finish(record, parent, subject)
            if any(one.reason.startswith("does not") for one in obstacles):
                break
        del record.obstacles[:]
        record.obstacles.extend(obstacles)
        record.state = _INCOMPLETE
        await self._erasures.save(record)
        _log.warning("erasure_incomplete", erasure=name, missing=sorted({one.keeper for one in obstacles}))
        return False

    async def _erase(
        self, name: str, parent: str, subject: erasure_pb2.TraceSubject, purge: str = ""
    ) -> list[erasure_pb2.Obstacle]:
        obstacles = []
        request = erasure_pb2.EraseTracesRequest(parent=parent, subject=subject, erasure=name, purge=purge)
        for keeper, asked in self._keepers.items():
            try:
                reasons = await asked.erase(request)
            except MeshError as error:
                reasons = [explained(error)]
            obstacles += [erasure_pb2.Obstacle(keeper=keeper, reason=reason) for reason in reasons]
        return obstacles

    async def _look_again(
        self, name: str, parent: str, subject: erasure_pb2.TraceSubject
    ) -> list[erasure_pb2.Obstacle]:
        """What is left, or came meanwhile."""
        try:
            found = await self._looking.names(parent, subject)
        except MeshError as error:
            return [erasure_pb2.Obstacle(keeper=error.metadata.get("keeper", ""), reason=explained(error))]
        before = subject.ByteSize()
        for part in found.parts.values():
            added_to(subject, part.subject)
        if subject.ByteSize() > before:
            await self._erasures.add(name, subject)
        return [
            erasure_pb2.Obstacle(keeper=one.keeper, reason=f"{one.count} {one.kind} are left") for one in found.traces
        ]

    async def _finish(self, record: erasure_pb2.PersonErasure, parent: str, subject: erasure_pb2.TraceSubject) -> bool:
        token = record.plan
        await self._erasures.forget_plans(parse_store(parent)[0], subject)
        del record.obstacles[:]
        del record.appearances[:]
        record.state = DONE
        record.ClearField("plan")
        record.complete_time.GetCurrentTime()
        record.receipt.CopyFrom(self._signer.sign(content_of(record, self._signer.key_id)))
        await self._erasures.save(record, token=token)
        _log.info("person_erased", erasure=record.name)
        return True
