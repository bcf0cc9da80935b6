"""`python -m bench.alerts`: how long an alert takes to the last of many clients, beside a bare grpc.aio fan-out.

Alerts are raised one after the other; the time runs from just before RaiseAlerts (so the durable write is in it) until
every client has it. The baseline sends the very same bytes to as many clients of `bench.fanout`, in turn with ours. All
clients are in this process, each with a stream and a connection of its own, and they are the same for both.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import grpc
import psutil
import typer
import uvloop
from poi.v1 import alert_pb2, alert_pb2_grpc, common_pb2, match_pb2
from pydantic import BaseModel
from rich.console import Console

from bench import fanout, machine
from bench.lag import quantile
from bench.results import Machine
from mesh.channels import connect
from mesh.local import Mesh

STORE = "stores/bench"
STREAM = "/poi.v1.AlertService/StreamAlerts"
_ROOT = Path(__file__).resolve().parents[1]
_ARRIVE_SECONDS = 60.0


class Spread(BaseModel):
    """Milliseconds from the call to a client that has the alert."""

    first_p50: float
    """To the first client."""
    p50: float
    """To the last client, as are the following."""
    p95: float
    p99: float
    server_cpu_us: float
    """CPU of the server for each client and alert."""


class AlertsReport(BaseModel):
    """A whole run."""

    machine: Machine
    clients: int
    alerts: int
    """Of each of the two."""
    message_bytes: int
    ours: Spread
    baseline: Spread
    ratio_p99: float
    ratio_cpu: float | None
    """None of a run so short that the clock (10 ms) shows nothing for the baseline."""
    missing: int
    """Clients that did not see every alert once and in order."""


class Clients:
    """Many streams that are told the same."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.received: list[list[str]] = [[] for _ in range(count)]
        self._arrived = 0
        self._listening = 0
        self._first = 0.0
        self._broken: grpc.aio.AioRpcError | None = None
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def listening(self, target: str, method: str, request: bytes) -> AsyncIterator[None]:
        """Opens all streams; each has begun."""
        async with AsyncExitStack() as stack:
            tasks = []
            for number in range(self._count):
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, options=options))
                stream: Any = channel.unary_stream(method, response_deserializer=_read_response)
                tasks.append(asyncio.create_task(self._read(stream(request), self.received[number])))
            try:
                await self._until(lambda: self._listening == self._count)
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def told(self, telling: Awaitable[Any]) -> tuple[float, float, Any]:
        """(first, last, answer): seconds until a client, and until every client, has what the call tells."""
        self._arrived = 0
        began = time.perf_counter()
        answer, _ = await asyncio.gather(telling, self._until(lambda: self._arrived == self._count))
        return self._first - began, time.perf_counter() - began, answer

    async def _read(self, stream: Any, received: list[str]) -> None:
        try:
            await self._count_in(stream, received)
        except grpc.aio.AioRpcError as error:
            self._broken = error
            self._changed.set()

    async def _count_in(self, stream: Any, received: list[str]) -> None:
        begun = False
        async for response in stream:
            if response.event == alert_pb2.ALERT_EVENT_RAISED:
                received.append(response.alert.name)
                self._arrived += 1
                if self._arrived == 1:
                    self._first = time.perf_counter()
            elif not begun:
                begun = True
                self._listening += 1
            if self._count in (self._arrived, self._listening):
                self._changed.set()

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(_ARRIVE_SECONDS):
            while not reached():
                if self._broken is not None:
                    raise self._broken
                self._changed.clear()
                await self._changed.wait()


class Samples:
    """What was measured of one server."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.last: list[float] = []
        self.cpu = 0.0
        self.missing = 0

    def spread(self, clients: int) -> Spread:
        """The quantiles."""
        first, last = sorted(self.first), sorted(self.last)
        return Spread(
            first_p50=quantile(first, 0.5) * 1e3,
            p50=quantile(last, 0.5) * 1e3,
            p95=quantile(last, 0.95) * 1e3,
            p99=quantile(last, 0.99) * 1e3,
            server_cpu_us=self.cpu * 1e6 / (clients * len(last)),
        )


async def measure(directory: Path, *, clients: int, alerts: int, rounds: int, pause: float) -> AlertsReport:
    """Starts both servers and a Redis, measures them in turn, `alerts` of each in all, and stops them."""
    _allow_files(4 * clients + 256)
    running = Mesh(directory, env={"POI_STORE": "bench"}, services=["alert"])
    await asyncio.to_thread(running.start)
    bare = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.fanout", cwd=_ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    ours, baseline, message = Samples(), Samples(), alert_pb2.StreamAlertsResponse()
    try:
        about = machine.describe(running)
        assert bare.stdout is not None
        bare_target = (await bare.stdout.readline()).decode().strip()
        for number in range(rounds):
            names = [f"r{number}a{each}" for each in range(alerts // rounds)]
            message = await _ours(running, ours, clients, names, pause)
            await _bare(bare_target, bare.pid, baseline, clients, message, len(names), pause)
    finally:
        assert bare.stdin is not None
        bare.stdin.close()
        await bare.wait()
        await asyncio.to_thread(running.stop)
    with_log, without = ours.spread(clients), baseline.spread(clients)
    return AlertsReport(
        machine=about,
        clients=clients,
        alerts=len(ours.last),
        message_bytes=message.ByteSize(),
        ours=with_log,
        baseline=without,
        ratio_p99=with_log.p99 / without.p99,
        ratio_cpu=with_log.server_cpu_us / without.server_cpu_us if without.server_cpu_us else None,
        missing=ours.missing + baseline.missing,
    )


async def _ours(
    running: Mesh, samples: Samples, clients: int, names: list[str], pause: float
) -> alert_pb2.StreamAlertsResponse:
    """Measures the alert service; one of its messages, for the baseline to send."""
    pid = next(program.pid for program in running.programs if program.name == "alert")
    request = alert_pb2.StreamAlertsRequest(parent=STORE).SerializeToString()
    async with connect(running.target("alert")) as channel:
        stub: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(channel)
        audience = Clients(clients)
        async with audience.listening(running.target("alert"), STREAM, request):
            requests = [_candidate(name) for name in names]
            raised = await _play(samples, audience, pid, stub.RaiseAlerts, requests, pause)
        expected = [response.alerts[0].alert for response in raised]
        samples.missing += sum(received != expected for received in audience.received)
        alert = await stub.GetAlert(alert_pb2.GetAlertRequest(name=expected[-1]))
    return alert_pb2.StreamAlertsResponse(
        event=alert_pb2.ALERT_EVENT_RAISED, alert=alert, cursor=f"{time.time_ns() // 1_000_000}-0"
    )


async def _bare(
    target: str,
    pid: int,
    samples: Samples,
    clients: int,
    message: alert_pb2.StreamAlertsResponse,
    count: int,
    pause: float,
) -> None:
    begin = alert_pb2.StreamAlertsResponse(event=alert_pb2.ALERT_EVENT_HEARTBEAT).SerializeToString()
    async with connect(target) as channel:
        publish: Any = channel.unary_unary(f"/{fanout.SERVICE}/Publish")
        audience, content = Clients(clients), message.SerializeToString()
        async with audience.listening(target, f"/{fanout.SERVICE}/Subscribe", begin):
            await _play(samples, audience, pid, publish, [content] * count, pause)
        samples.missing += sum(len(received) != count for received in audience.received)


async def _play(
    samples: Samples, audience: Clients, pid: int, call: Any, requests: Sequence[Any], pause: float
) -> list[Any]:
    """The answers to the requests, sent one after the other, each when all clients were told of the one before."""
    answers: list[Any] = []
    before = _cpu(pid)
    for request in requests:
        first, last, answer = await audience.told(call(request))
        samples.first.append(first)
        samples.last.append(last)
        answers.append(answer)
        await asyncio.sleep(pause)
    samples.cpu += _cpu(pid) - before
    return answers


def _candidate(appearance: str) -> alert_pb2.RaiseAlertsRequest:
    candidate = alert_pb2.AlertCandidate(
        match=match_pb2.Match(
            poi=f"{STORE}/pois/p1",
            display_name="Somebody",
            severity=common_pb2.SEVERITY_HIGH,
            similarity=0.7,
            threshold=0.5,
            reference=f"{STORE}/pois/p1/references/r1",
        ),
        appearance=f"{STORE}/appearances/{appearance}",
        camera=f"{STORE}/cameras/c1",
        detection_id="d" * 32,
        person_box=common_pb2.BoundingBox(x=1, y=2, width=30, height=80),
        face_box=common_pb2.BoundingBox(x=3, y=4, width=20, height=20),
    )
    candidate.detect_time.FromNanoseconds(time.time_ns())
    return alert_pb2.RaiseAlertsRequest(parent=STORE, candidates=[candidate])


def _read_response(content: bytes) -> alert_pb2.StreamAlertsResponse:
    return alert_pb2.StreamAlertsResponse.FromString(content)


def _cpu(pid: int) -> float:
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


def _allow_files(count: int) -> None:
    """A connection is a file, here and (it inherits this) in the servers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def main(
    clients: Annotated[int, typer.Option(help="Clients, each with a connection.")] = 1_000,
    alerts: Annotated[int, typer.Option(help="Alerts of each server.")] = 60,
    rounds: Annotated[int, typer.Option(help="Turns, in which the alerts are divided.")] = 2,
    pause: Annotated[float, typer.Option(help="Seconds between alerts.")] = 0.1,
    out: Annotated[Path, typer.Option(help="Directory for the results.")] = _ROOT / "build" / "bench",
) -> None:
    """Measure the alert streams: from an alert to the last of many clients."""
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="run-", dir=out) as directory:
            found = uvloop.run(measure(Path(directory), clients=clients, alerts=alerts, rounds=rounds, pause=pause))
    except grpc.aio.AioRpcError as error:
        console.print(f"bench: {error.code().name}: {error.details()}", style="red", markup=False)
        raise typer.Exit(1) from None
    console.print(
        f"{found.machine.cores} x {found.machine.cpu}, load average {found.machine.load_average} before the start\n"
        f"{found.clients} clients, {found.alerts} alerts of {found.message_bytes} bytes, one after the other; ms",
        markup=False,
        soft_wrap=True,
    )
    for name, spread in (("alert service", found.ours), ("bare fan-out", found.baseline)):
        console.print(
            f"{name}: first client p50 {spread.first_p50:.1f}; last client p50 {spread.p50:.1f}, "
            f"p95 {spread.p95:.1f}, p99 {spread.p99:.1f}; server {spread.server_cpu_us:.0f} us CPU a client and alert",
            markup=False,
            soft_wrap=True,
        )
    ratio_cpu = "unknown" if found.ratio_cpu is None else f"{found.ratio_cpu:.2f}"
    console.print(
        f"ratio: p99 {found.ratio_p99:.2f}, CPU {ratio_cpu}; clients that missed or saw twice: {found.missing}",
        markup=False,
    )
    path = out / "alerts.json"
    path.write_text(found.model_dump_json(indent=2) + "\n")
    console.print(f"Written to {path}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
