"""A camera that shows a new person every tenth of a second, each with the same face, while something is changed."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

import orjson

from clients.replay import Publisher
from tests.e2e.client import until
from tests.e2e.floor import Floor, person
from tests.support.vectors import Vector


class Stream:
    """Use as an async context manager. The object ids are 0, 1, 2, ... in the order in which they were published."""

    def __init__(self, here: Floor, camera: str, face: Vector) -> None:
        self._here, self._camera, self._face = here, camera, face
        self.shown = 0
        """How many were published: this is the next one's object id."""
        self._moved = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if error is None:
            await self._here.used()

    async def _run(self) -> None:
        publisher = Publisher(self._here.store.mesh.mqtt_url)
        await asyncio.to_thread(publisher.connect)
        try:
            while True:
                shown = {"timestamp": time.time(), "objects": {"person": [person(self.shown, self._face)]}}
                topic = f"scenescape/data/camera/{self._camera}"
                async with self._moved:
                    self.shown += 1
                    self._moved.notify_all()
                publisher.publish(topic, orjson.dumps(shown))
                publisher.flush(60)
                await asyncio.sleep(0.1)
        finally:
            publisher.close()

    async def alerting(self) -> None:
        """Returns when the first alerts are there."""

        async def some() -> bool:
            return len(await self._here.alerts(self._camera)) >= 3

        await until(some, "the first alerts")

    async def matched(self) -> int:
        """How many, the first ones, have been published and compared with whoever is enrolled now."""
        published = self.shown - 1  # the last one may just be on its way to the broker
        await self._here.used()
        return published

    async def shows_more(self, number: int) -> None:
        """Returns when so many more have been published."""
        async with self._moved:
            enough = self.shown + number
            await self._moved.wait_for(lambda: self.shown >= enough)

    async def alerts_of(self, poi_id: str) -> set[int]:
        """Object ids of all who alerted, each once."""
        raised = await self._here.raised(self._camera)
        assert all(poi == poi_id for _, _, poi in raised)
        numbers = [int(object_id) for _, object_id, _ in raised]
        assert len(set(numbers)) == len(numbers)
        return set(numbers)
