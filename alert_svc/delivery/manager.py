"""Runs a worker for each target that there is, on every server: the one that gets the target's lease delivers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import NamedTuple

import structlog
from poi.v1 import delivery_pb2

from alert_svc.delivery.senders import Senders
from alert_svc.delivery.websocket import WebSocketServer
from alert_svc.delivery.worker import Parts, Worker
from mesh.aio import Background

_log = structlog.get_logger(__name__)


class _Running(NamedTuple):
    etag: str
    worker: Worker
    task: asyncio.Task[None]


class Manager:
    """The workers of this server."""

    def __init__(self, parts: Parts, senders: Senders, websocket: WebSocketServer | None) -> None:
        self._parts, self._senders, self._websocket = parts, senders, websocket
        self._background = Background()
        self._running: dict[str, _Running] = {}

    def start(self) -> None:
        """Begins to deliver."""
        self._background.start("deliver", self._watch)

    async def close(self) -> None:
        """Ends deliveries; leases are given back, so that others go on at once."""
        await self._background.close()

    async def _watch(self) -> None:
        async with aclosing(self._parts.store.changes()) as changes:
            async for change in changes:
                await self._refresh()
                name, works = change or ("", False)
                for each, running in self._running.items():
                    if change is None or each == name:
                        running.worker.look()
                        if works:
                            running.worker.hurry()

    async def _refresh(self) -> None:
        targets = {target.name: target for target in await self._parts.store.everywhere()}
        if self._websocket is not None:
            self._websocket.refresh({name: target for name, target in targets.items() if target.enabled})
        for name, running in list(self._running.items()):
            target = targets.get(name)
            if target is None or target.etag != running.etag or not target.enabled or running.task.done():
                running.task.cancel()
                del self._running[name]
        for name, target in targets.items():
            if target.enabled and name not in self._running:
                self._start(target)

    def _start(self, target: delivery_pb2.Target) -> None:
        try:
            sender = self._senders.make(target)
        except Exception:
            # Kept by a release that checked less, or a fault of ours: no other target must wait for this one.
            _log.exception("target_unusable", target=target.name)
            return
        if sender is not None:
            worker = Worker(target, sender, self._parts)
            task = self._background.start(f"deliver to {target.name}", worker.run)
            self._running[target.name] = _Running(target.etag, worker, task)
