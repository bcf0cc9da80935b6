"""The mesh that is measured, with the client that its alerts go to and the clocks that its processes are read by."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import grpc
import psutil
from poi.v1 import alert_pb2, alert_pb2_grpc, common_pb2, ingest_pb2, ingest_pb2_grpc, poi_pb2, poi_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from bench import lag
from bench.enrolment import synthetic_poi
from bench.load import PEOPLE_SEED, Generator, Job, Played
from bench.results import Run
from clients.replay import People
from mesh import embeddings, names
from mesh.local import USUAL, Mesh
from mesh.local.mesh import AUDIT
from mesh.principal import Role

T = TypeVar("T")

STORE = "bench"
_SAMPLE_SECONDS = 0.1
_DRAIN_SECONDS = 60.0
_ALERT_SECONDS = 5.0
_ENROL_AT_ONCE = 32
_KEPT_RATE = 0.99
_NEVER_REWRITE = 100_000_000  # this broker is not killed; writing its database would stop the measured one


class Arrival(NamedTuple):
    """An alert in the client's hand."""

    at: float
    """Monotonic seconds."""
    alert: alert_pb2.Alert

    @property
    def key(self) -> tuple[str, int]:
        """(camera id, event time in ms) of the message that raised it."""
        return self.alert.camera.rpartition("/")[2], self.alert.detect_time.ToMilliseconds()


class Loaded(NamedTuple):
    """One load, and what came of it."""

    run: Run
    played: Played
    arrivals: list[Arrival]


class Rig:
    """A running mesh of its own, and a client of it. Use as an async context manager.

    embed_svc is left out: cameras send embeddings, and people are enrolled by embeddings, so it would only idle.
    """

    def __init__(
        self, directory: Path, generator: Generator, progress: Callable[[str], None], *, secure: bool = False
    ) -> None:
        """`secure`: with mutual TLS, authorisation, the audit log and everything sealed that is stored."""
        self.generator = generator
        self._progress = progress
        self.mesh = Mesh(
            directory,
            env={"POI_STORE": STORE, **(_vault(directory / "keys") if secure else {})},
            services=[name for name in (*USUAL, *([AUDIT] if secure else [])) if name != "embed"],
            autosave_changes=_NEVER_REWRITE,
            secure=secure,
        )
        self._people = People(PEOPLE_SEED)
        self._channels: list[grpc.aio.Channel] = []
        self._arrivals: list[Arrival] = []
        self._arrived = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._jobs = 0
        self.enrolled = 0

    async def __aenter__(self) -> Rig:
        self._progress("starting the mesh")
        await asyncio.to_thread(self.mesh.start)
        try:
            self._ingest: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(
                self._channel("ingest")
            )
            self._pois: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(self._channel("match"))
            listening = asyncio.Event()
            self._listener = asyncio.create_task(self._listen(listening))
            async with asyncio.timeout(30):
                await listening.wait()
            self._pids = {program.name: program.pid for program in self.mesh.programs}
            self._pids["client"] = psutil.Process().pid
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    @property
    def pids(self) -> dict[str, int]:
        """Every process of the mesh, and this one as "client"."""
        return self._pids

    async def enrol(self, count: int) -> None:
        """Enrols people, each by one embedding, until so many are."""
        numbers = iter(range(self.enrolled, count))

        async def work() -> None:
            for number in numbers:
                vector = self._people.enrolment(number)
                await self._pois.CreatePoi(
                    poi_pb2.CreatePoiRequest(
                        parent=names.store(STORE),
                        poi_id=f"person-{number}",
                        poi=synthetic_poi(f"Person {number}"),
                        embeddings=[
                            embeddings.encode(
                                vector, model=embeddings.FACE_MODEL, alignment=common_pb2.ALIGNMENT_UNALIGNED
                            )
                        ],
                        allow_duplicate=True,
                    ),
                    timeout=60,
                )
                self.enrolled += 1
                if self.enrolled % 1000 == 0:
                    self._progress(f"{self.enrolled:,} of {count:,} enrolled")

        async with asyncio.TaskGroup() as group:
            for _ in range(_ENROL_AT_ONCE):
                group.create_task(work())

    async def load(self, *, faces: int, rate: float, seconds: float) -> Loaded:
        """Publishes `rate` messages a second and waits until all of them are acknowledged, or for a minute."""
        self._jobs += 1
        job = Job(self.mesh.mqtt_url, faces, rate, seconds, self.enrolled, self._jobs)
        start, stored = await self._status(), await self._stored()
        cpu, everybody, began = self._cpu(), _busy(), time.monotonic()
        self._arrivals.clear()
        samples: list[tuple[float, int]] = []
        sampler = asyncio.create_task(self._sample(samples, start.acknowledged_messages))
        try:
            played = await self.generator.play(job)
            status = await self._drained(start.acknowledged_messages + len(played.published_at))
            await self._alerted(played.enrolled_tracks)
        finally:
            sampler.cancel()
        wall, spent = time.monotonic() - began, _minus(self._cpu(), cpu)
        spent["load generator"] = played.cpu_seconds
        busy = (_busy() - everybody) / wall
        raised = Counter((arrival.alert.appearance, arrival.alert.match.poi) for arrival in self._arrivals)
        times = played.times
        duration = times[-1] - times[0] + 1 / rate
        detections = job.messages * faces
        behind = lag.measure(times, samples)
        run = Run(
            messages_per_second=job.messages / duration,
            detections_per_second=detections / duration,
            seconds=duration,
            published_messages=len(times),
            acknowledged_messages=status.acknowledged_messages - start.acknowledged_messages,
            detections=detections,
            lost_detections=detections - (await self._stored() - stored),
            refused=status.rejections - start.rejections,
            expected_alerts=played.enrolled_tracks,
            lost_alerts=max(played.enrolled_tracks - len(raised), 0),
            doubled_alerts=len(self._arrivals) - min(len(raised), played.enrolled_tracks),
            lag_first_ms=behind.first * 1e3,
            lag_last_ms=behind.last * 1e3,
            lag_max_ms=behind.most * 1e3,
            late_max_ms=played.max_late_s * 1e3,
            steady=False,
            cpu_us_per_detection={name: seconds * 1e6 / detections for name, seconds in spent.items()},
            cores_busy=busy,
            cores_of_others=max(busy - sum(spent.values()) / wall, 0.0),
        )
        run.cpu_us_per_detection["all"] = sum(spent.values()) * 1e6 / detections
        run.why_not = _why_not(run, behind, rate)
        run.steady = not run.why_not
        return Loaded(run, played, list(self._arrivals))

    async def while_loaded(self, work: Coroutine[Any, Any, T], *, faces: int, rate: float, seconds: float) -> T:
        """What `work` gives, which begins a second after the load does."""

        async def delayed() -> T:
            await asyncio.sleep(1.0)
            return await work

        async with asyncio.TaskGroup() as group:
            group.create_task(self.load(faces=faces, rate=rate, seconds=seconds))
            task = group.create_task(delayed())
        return task.result()

    def _channel(self, service: str) -> grpc.aio.Channel:
        channel = self.mesh.connect(service, Role.OPERATOR, Role.ENROLLER, subject="bench")
        self._channels.append(channel)
        return channel

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
        await asyncio.to_thread(self.mesh.stop)

    async def _listen(self, listening: asyncio.Event) -> None:
        stub: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(self._channel("alert"))
        async for response in stub.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=names.store(STORE))):
            listening.set()
            if response.event == alert_pb2.ALERT_EVENT_RAISED:
                self._arrivals.append(Arrival(time.monotonic(), response.alert))
                self._arrived.set()

    async def _status(self) -> ingest_pb2.IngestStatus:
        return await self._ingest.GetIngestStatus(
            ingest_pb2.GetIngestStatusRequest(name=f"{names.store(STORE)}/ingestStatus"), timeout=20
        )

    async def _stored(self) -> int:
        """How many detections history says that it has made durable."""
        text = await asyncio.to_thread(self.mesh.services["history"].metrics)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "poi_history_appended_total":
                    return int(sample.value)
        raise RuntimeError("history does not say how many detections it has")

    async def _sample(self, samples: list[tuple[float, int]], before: int) -> None:
        while True:
            status = await self._status()
            samples.append((time.monotonic(), status.acknowledged_messages - before))
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def _drained(self, acknowledged: int) -> ingest_pb2.IngestStatus:
        deadline = time.monotonic() + _DRAIN_SECONDS
        status = await self._status()
        while status.acknowledged_messages < acknowledged and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            status = await self._status()
        return status

    async def _alerted(self, expected: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_ALERT_SECONDS):
                while len(self._arrivals) < expected:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _cpu(self) -> dict[str, float]:
        """CPU seconds that each process has used."""
        times = {name: psutil.Process(pid).cpu_times() for name, pid in self._pids.items()}
        return {name: spent.user + spent.system for name, spent in times.items()}


def _vault(directory: Path) -> dict[str, str]:
    """Keys of the store, and the settings of servers that seal with them."""
    from mesh.vault import keyring, masters  # with libraries that take their time to import

    directory.mkdir(parents=True)
    ring, master = directory / "keyring.json", directory / "master"
    masters.create_file(master)
    where = f"file:{master.resolve()}"
    with keyring.editing(ring, create=True) as keys:
        keys.add(STORE, masters.load(where))
    return {"POI_VAULT_KEYRING": str(ring.resolve()), "POI_VAULT_MASTER": where}


def _busy() -> float:
    """CPU seconds that this machine has used, all cores together, those that its host took away included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _minus(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: seconds - before[name] for name, seconds in after.items()}


def _why_not(run: Run, behind: lag.Lag, rate: float) -> str:
    if run.lost_detections or run.acknowledged_messages < run.published_messages:
        return f"{run.lost_detections} detections lost"
    if run.lost_alerts or run.doubled_alerts:
        return f"{run.lost_alerts} alerts lost, {run.doubled_alerts} doubled"
    if run.refused:
        return f"{run.refused} messages refused"
    if behind.growing:
        return f"lag grew from {run.lag_first_ms:.0f} to {run.lag_last_ms:.0f} ms, at most {run.lag_max_ms:.0f} ms"
    if run.messages_per_second < _KEPT_RATE * rate:
        return f"the load generator published {run.messages_per_second:.0f} messages/s in place of {rate:.0f}"
    return ""
