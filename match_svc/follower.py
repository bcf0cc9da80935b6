"""Keeps this replica's galleries equal to the registry, by following its log."""

from __future__ import annotations

import asyncio
import builtins
import gc
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import structlog
from google.protobuf.message import DecodeError
from poi.v1 import match_pb2, poi_pb2
from redis.exceptions import ConnectionError, TimeoutError

from match_svc import crossover, metrics
from match_svc.builder import Builder
from match_svc.gallery import Snapshot, empty
from match_svc.log import Change, LogReader
from match_svc.people import DIMENSION
from match_svc.policy import Rules, RulesOf
from match_svc.records import Records
from mesh.vault import NoVault, Unopenable

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

_RECONNECT_SECONDS = 0.25


class Follower:
    """The galleries of all stores, loaded once and then changed as the log says.

    While Redis is away the galleries stay as they are and go on matching. A gap in the log's revisions, or a revision
    that went back, means that changes were missed (the log was trimmed meanwhile, Redis was reset): then all is loaded
    anew.
    """

    def __init__(
        self,
        log: LogReader,
        rules: RulesOf,
        write_wait_seconds: float,
        on_change: Callable[[], None],
        records: Records | None = None,
    ) -> None:
        """`rules` makes a store's from its settings and watchlists. `on_change` is called whenever the galleries have
        another revision; `write_wait_seconds` bounds `settled`."""
        self._log, self._records = log, records or Records()
        self._rules_of = rules
        self._write_wait_seconds = write_wait_seconds
        self._on_change = on_change
        # Builders are touched in this one thread only, so that parsing and copying stall no match.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gallery")
        self._folds = ThreadPoolExecutor(1, thread_name_prefix="fold", initializer=_step_back)
        self._folding: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()  # a snapshot that was made later is published later
        self._builders: dict[str, Builder] = {}
        self._rules: dict[str, Rules] = {}
        self._galleries: dict[str, Snapshot] = {}
        self._position = b""
        self._revision = -1
        self._progress = asyncio.Condition()

    def gallery(self, store: str) -> Snapshot:
        """The store's gallery now."""
        return self._galleries.get(store) or empty(store)

    @property
    def stores(self) -> list[str]:
        """Those that have a gallery."""
        return list(self._galleries)

    @property
    def loaded(self) -> bool:
        """Whether the registry was loaded."""
        return self._revision >= 0

    @property
    def revision(self) -> int:
        """Of the registry, that the galleries have; -1 before the first load."""
        return self._revision

    @property
    def position(self) -> bytes:
        """Id of the log's entry that this is up to."""
        return self._position

    async def settled(self, revision: int) -> None:
        """Return when the galleries have this revision, or after a while all the same: the change is durable anyway."""
        if not await self._reached(revision, self._write_wait_seconds):
            _log.warning("gallery_behind", gallery_revision=self._revision, wanted_revision=revision)

    async def run(self) -> None:
        """Load and follow, for ever."""
        away = False
        while True:
            try:
                if not self.loaded or away:
                    await self._in_turn(self._catch_up())
                away = False
                await self._follow()
            except (ConnectionError, TimeoutError, OSError) as error:
                if not away:
                    _log.warning("registry_unreachable", error=type(error).__name__, gallery_revision=self._revision)
                away = True
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def close(self) -> None:
        """Let the threads end."""
        for task in list(self._folding.values()):
            task.cancel()
        self._folds.shutdown(wait=False, cancel_futures=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _reached(self, revision: int, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), self._progress:
                await self._progress.wait_for(lambda: self._revision >= revision)
        except builtins.TimeoutError:
            return False
        return True

    async def _follow(self) -> None:
        """Apply what the log brings until a load is due."""
        while True:
            position, changes = await self._log.wait(self._position)
            if not changes:
                await self._in_turn(self._catch_up())
            else:
                await self._in_turn(self._apply(position, changes))
            if any(builder.outdated() for builder in self._builders.values()):
                await self._in_turn(self._age())

    async def _in_turn(self, change: Coroutine[Any, Any, None]) -> None:
        async with self._turn:
            await change
        self._fold_where_due()

    async def _catch_up(self) -> None:
        """Load everything, unless the registry is where we are or just ahead."""
        if self.loaded:
            changes, revision = await self._log.look(self._position)
            if changes or revision == self._revision:
                return
            _log.warning("registry_reset", gallery_revision=self._revision, registry_revision=revision)
        await self._load()

    async def _apply(self, position: bytes, changes: list[Change]) -> None:
        expected = range(self._revision + 1, self._revision + 1 + len(changes))
        if any(change.revision != number for change, number in zip(changes, expected, strict=True)):
            _log.warning("registry_log_gap", gallery_revision=self._revision, next_revision=changes[0].revision)
            await self._load()
            return
        by_store: dict[str, list[Change]] = defaultdict(list)
        for change in changes:
            by_store[change.store].append(change)
        snapshots = {}
        for store, of_store in by_store.items():
            if any(not change.poi_id for change in of_store):
                await self._read_rules(store)
            records = await self._log.lookup(store, {change.poi_id for change in of_store if change.poi_id})
            if store not in self._builders:
                self._builders[store] = self._new_builder(store)
            builder = self._builders[store]
            snapshots[store] = await self._in_thread(
                _apply, self._decode(store), builder, records, self._rules_for(store), of_store[-1].revision
            )
        await self._publish({**self._galleries, **snapshots}, position, changes[-1].revision, snapshots)

    async def _age(self) -> None:
        """Make anew the galleries of stores of which somebody has expired: rates are for fewer persons."""
        aged = {}
        for store, builder in self._builders.items():
            if builder.outdated():
                rules, revision = self._rules_for(store), self.gallery(store).revision
                aged[store] = await self._in_thread(builder.apply, {}, rules, revision)
        await self._publish({**self._galleries, **aged}, self._position, self._revision, aged)

    async def _load(self) -> None:
        with _uncollected():
            await self._load_all()

    async def _load_all(self) -> None:
        start = await self._log.start()
        builders, snapshots = {}, {}
        for store, revision in start.stores.items():
            await self._read_rules(store)
            builders[store] = builder = self._new_builder(store)
            rules, decode = self._rules_for(store), self._decode(store)
            applied = self._in_thread(_apply, decode, builder, {}, rules, revision)
            async for records in self._log.records(store):  # the next are read while these are parsed
                await applied
                applied = self._in_thread(_apply, decode, builder, records, rules, revision)
            snapshots[store] = await applied
        self._builders = builders
        gone = self._galleries.keys() - snapshots.keys()
        await self._publish(snapshots, start.position, start.revision, {**snapshots, **{s: empty(s) for s in gone}})
        metrics.LOADS.inc()
        _log.info(
            "gallery_loaded",
            stores=len(snapshots),
            people=sum(snapshot.size for snapshot in snapshots.values()),
            references=sum(snapshot.references for snapshot in snapshots.values()),
            revision=start.revision,
        )

    def _fold_where_due(self) -> None:
        for store, builder in self._builders.items():
            if store not in self._folding and builder.due():
                task = asyncio.create_task(self._fold(store, builder), name=f"fold {store}")
                self._folding[store] = task
                task.add_done_callback(lambda _, store=store: self._folding.pop(store))  # type: ignore[misc]

    async def _fold(self, store: str, builder: Builder) -> None:
        """Fold a store's new rows into its index, while searches and changes go on."""
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            builder.crossover = await loop.run_in_executor(self._folds, crossover.measure, DIMENSION)
            fold = await self._in_thread(builder.fold)
            folded = await loop.run_in_executor(self._folds, fold.run)
        except Exception:
            _log.exception("fold_failed", store=store)  # the next change tries again; meanwhile search is exact
            return
        async with self._turn:
            if self._builders.get(store) is not builder:
                return  # all was loaded anew
            snapshot = await self._in_thread(builder.install, folded)
            await self._publish({**self._galleries, store: snapshot}, self._position, self._revision, {store: snapshot})
        metrics.FOLDS.inc()
        _log.info(
            "gallery_folded",
            store=store,
            index=snapshot.kind,
            references=snapshot.references,
            pending=snapshot.pending,
            seconds=round(time.perf_counter() - started, 3),
        )

    async def _publish(
        self, galleries: dict[str, Snapshot], position: bytes, revision: int, changed: Mapping[str, Snapshot]
    ) -> None:
        self._galleries, self._position = galleries, position
        for store, snapshot in changed.items():
            metrics.PEOPLE.labels(store).set(snapshot.size)
            metrics.ROWS.labels(store).set(snapshot.rows)
            metrics.REFERENCES.labels(store).set(snapshot.references)
            metrics.PENDING.labels(store).set(snapshot.pending)
            metrics.EXPIRED.labels(store).set(snapshot.expired.persons)
        metrics.REVISION.set(revision)
        async with self._progress:
            self._revision = revision
            self._progress.notify_all()
        self._on_change()

    async def _read_rules(self, store: str) -> None:
        self._rules[store] = self._rules_of(*await self._log.rules(store))

    def _rules_for(self, store: str) -> Rules:
        if store not in self._rules:
            self._rules[store] = self._rules_of(match_pb2.MatchSettings(), ())
        return self._rules[store]

    def _new_builder(self, store: str) -> Builder:
        return Builder(store, self._rules_for(store), crossover.LEAST)  # measured before the first folding

    def _decode(self, store: str) -> _Decode:
        return partial(self._records.decode, store)

    def _in_thread(self, work: Callable[..., _T], *args: Any) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Make a million objects without looking for cycles among them again and again, now (a fifth of the load) and later
    (a stall of half a second each time): there are none."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _step_back() -> None:
    """Let a folding have what searches leave of the cores, where threads have priorities of their own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


_Decode = Callable[[str, bytes], poi_pb2.Poi]
"""Of POI and value."""


def _apply(
    decode: _Decode, builder: Builder, records: Mapping[str, bytes | None], rules: Rules, revision: int
) -> Snapshot:
    return builder.apply(dict(_decoded(decode, records.items())), rules, revision)


def _decoded(decode: _Decode, records: Iterable[tuple[str, bytes | None]]) -> Iterable[tuple[str, poi_pb2.Poi | None]]:
    for poi_id, value in records:
        try:
            yield poi_id, None if value is None else decode(poi_id, value)
        except NoVault:
            raise  # nobody would be matched, and nothing is wrong but a setting
        except (DecodeError, UnicodeDecodeError, Unopenable):
            # One record that somebody damaged must not keep the others from being matched.
            _log.error("record_unreadable", poi_id=poi_id)
            yield poi_id, None
