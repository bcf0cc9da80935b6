"""Scene updates to the region service, in order: those that come while a batch is under way make the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from poi.v1 import region_pb2

from ingest_svc.acknowledgements import Acknowledgements, Delivery
from ingest_svc.batch_stream import BatchStream
from ingest_svc.rejections import Problem
from mesh import errors

RegionStream = BatchStream[region_pb2.RecordSceneUpdatesRequest, region_pb2.RecordSceneUpdatesResponse]

_BATCH = 64


class SceneFlow:
    """Sees scene updates through to the region service. `run` must be running."""

    def __init__(
        self,
        parent: str,
        region: RegionStream,
        acknowledgements: Acknowledgements,
        on_problems: Callable[[str, Sequence[Problem]], None],
    ) -> None:
        self._parent = parent
        self._region = region
        self._acknowledgements = acknowledgements
        self._on_problems = on_problems
        self._queue: deque[tuple[region_pb2.SceneUpdate, Delivery]] = deque()
        self._wake = asyncio.Event()
        self.updates = 0
        """Updates that the region service has taken."""

    def add(self, update: region_pb2.SceneUpdate, delivery: Delivery) -> None:
        """Take the update of one message: a part that the delivery waits for."""
        delivery.waiting += 1
        self._queue.append((update, delivery))
        self._wake.set()

    async def run(self) -> None:
        """Send what comes, for ever."""
        while True:
            await self._wake.wait()
            batch = [self._queue[index] for index in range(min(len(self._queue), _BATCH))]
            if not batch:
                self._wake.clear()
                continue
            await self._send(batch)
            for _, delivery in batch:  # only now: a batch whose task was restarted is sent again
                self._queue.popleft()
                self._acknowledgements.done(delivery)

    async def _send(self, batch: Sequence[tuple[region_pb2.SceneUpdate, Delivery]]) -> None:
        updates = [update for update, _ in batch]
        try:
            response = await self._region.send(
                region_pb2.RecordSceneUpdatesRequest(parent=self._parent, updates=updates)
            )
        except errors.MeshError as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._send(batch[:middle])
                await self._send(batch[middle:])
            else:
                self._on_problems(updates[0].scene, [Problem(error.reason, "", str(error))])
            return
        self.updates += len(updates) - len(response.errors)
        for item in response.errors:
            refused = errors.from_status(item.status)
            self._on_problems(updates[item.index].scene, [Problem(refused.reason, "", str(refused))])
