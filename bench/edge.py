"""`python -m bench.edge`: what Envoy at the edge costs, and how many calls fail when a replica goes.

The same calls (GetGalleryStatus, a small unary one: the worst case for a proxy) by the same clients to match_svc
directly, and through the gateway, in turn; the ratio is Envoy's price. Then three ways for one of two replicas to go
while calls run: taken out by the control plane, SIGTERM, SIGKILL. Clients here never repeat a call: what fails is seen.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import grpc
import psutil
import typer
import uvloop
from poi.v1 import match_pb2, match_pb2_grpc, registry_pb2, registry_pb2_grpc
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.lag import quantile
from bench.results import Machine
from mesh.channels import connect
from mesh.local import Mesh, Service, free_port

_ROOT = Path(__file__).resolve().parents[1]
_REQUEST = match_pb2.GetGalleryStatusRequest(name="stores/store-1/galleryStatus")
_CALLERS = 8
_ROUNDS = 3


class Cost(BaseModel):
    """One way to call."""

    calls_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU of all servers on the way, for each call."""


class Loss(BaseModel):
    """One way for a replica to go."""

    how: str
    calls: int
    failed: dict[str, int]
    """By status."""


class EdgeReport(BaseModel):
    """A whole run."""

    machine: Machine
    direct: Cost
    gateway: Cost
    ratio_p50: float
    ratio_p99: float
    ratio_cpu: float
    losses: list[Loss]


class Load:
    """Callers that call one after the other, each without a pause, and note what they saw."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.seconds: list[float] = []
        self.failed: Counter[str] = Counter()

    @asynccontextmanager
    async def running(self):  # type: ignore[no-untyped-def]
        """Calls from the start of the block to its end."""
        over = asyncio.Event()
        async with grpc.aio.insecure_channel(self._target, options=[("grpc.enable_retries", 0)]) as channel:
            stub = match_pb2_grpc.MatchServiceStub(channel)
            await stub.GetGalleryStatus(_REQUEST, wait_for_ready=True, timeout=10)

            async def call() -> None:
                while not over.is_set():
                    began = time.perf_counter()
                    try:
                        await stub.GetGalleryStatus(_REQUEST, timeout=5)
                    except grpc.aio.AioRpcError as error:
                        self.failed[error.code().name] += 1
                    self.seconds.append(time.perf_counter() - began)

            async with asyncio.TaskGroup() as group:
                for _ in range(_CALLERS):
                    group.create_task(call())
                yield
                over.set()


async def measure(directory: Path, seconds: float) -> EdgeReport:
    """Starts what is measured, measures and stops it."""
    gateway = f"127.0.0.1:{free_port()}"
    limits = {"POI_XDS_GATEWAY_CALLS_PER_SECOND": "1000000", "POI_XDS_GATEWAY_BURST": "1000000"}
    mesh = Mesh(directory, env=limits, services=["match"], gateway=gateway)
    await asyncio.to_thread(mesh.start)
    try:
        about = machine.describe(mesh)
        direct, through = await _costs(mesh, gateway, seconds)
        losses = [
            await _loss(mesh, gateway, "taken out", seconds, _taken_out),
            await _loss(mesh, gateway, "SIGTERM", seconds, _stopped),
            await _loss(mesh, gateway, "SIGKILL", seconds, _killed),
        ]
    finally:
        await asyncio.to_thread(mesh.stop)
    return EdgeReport(
        machine=about,
        direct=direct,
        gateway=through,
        ratio_p50=through.p50_ms / direct.p50_ms,
        ratio_p99=through.p99_ms / direct.p99_ms,
        ratio_cpu=through.cpu_us / direct.cpu_us,
        losses=losses,
    )


async def _costs(mesh: Mesh, gateway: str, seconds: float) -> tuple[Cost, Cost]:
    assert mesh.gateway is not None
    server, envoy = mesh.services["match"].pid, mesh.gateway.pid
    ways = [(Load(mesh.target("match")), [server]), (Load(gateway), [server, envoy])]
    used = [0.0, 0.0]
    for _ in range(_ROUNDS):
        for number, (load, pids) in enumerate(ways):
            before = sum(map(_cpu, pids))
            async with load.running():
                await asyncio.sleep(seconds / _ROUNDS)
            used[number] += sum(map(_cpu, pids)) - before
    one, other = (_cost(load, cpu, seconds) for (load, _), cpu in zip(ways, used, strict=True))
    return one, other


def _cost(load: Load, cpu: float, seconds: float) -> Cost:
    if load.failed:
        raise RuntimeError(f"calls failed: {dict(load.failed)}")
    ascending = sorted(load.seconds)
    return Cost(
        calls_per_second=len(ascending) / seconds,
        p50_ms=quantile(ascending, 0.5) * 1e3,
        p99_ms=quantile(ascending, 0.99) * 1e3,
        cpu_us=cpu * 1e6 / len(ascending),
    )


async def _loss(
    mesh: Mesh, gateway: str, how: str, seconds: float, go: Callable[[Mesh, Service], Awaitable[None]]
) -> Loss:
    """Half of the time with two replicas, half of it with one."""
    # Not registered by itself: taken out by hand, it must go on serving.
    own = {"POI_CONTROL_PLANE": ""} if go is _taken_out else {}
    second = mesh.replica("match", f"match-{how.replace(' ', '-')}", **own)
    await asyncio.to_thread(second.start)
    load = Load(gateway)
    try:
        async with load.running():
            await go(mesh, second) if go is _taken_out else await _later(seconds / 2, go, mesh, second)
            await asyncio.sleep(seconds / 2)
    finally:
        await asyncio.to_thread(second.stop)
    return Loss(how=how, calls=len(load.seconds), failed=dict(load.failed))


async def _later(seconds: float, go: Callable[[Mesh, Service], Awaitable[None]], mesh: Mesh, second: Service) -> None:
    await asyncio.sleep(seconds)
    await go(mesh, second)


async def _stopped(_: Mesh, second: Service) -> None:
    await asyncio.to_thread(second.stop)


async def _killed(_: Mesh, second: Service) -> None:
    await asyncio.to_thread(second.kill)


async def _taken_out(mesh: Mesh, second: Service) -> None:
    """Registered, given time to get calls, and taken out while it goes on."""
    assert mesh.control_plane is not None
    async with connect(mesh.control_plane.target) as channel:
        call = registry_pb2_grpc.RegistryServiceStub(channel).Register()
        for state in (registry_pb2.SERVER_STATE_SERVING, registry_pb2.SERVER_STATE_LEAVING):
            await call.write(registry_pb2.RegisterRequest(service="match", address=second.target, state=state))
            await call.read()
            await asyncio.sleep(3)
        call.cancel()


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def show(console: Console, report: EdgeReport) -> None:
    """The report as two tables."""
    about = report.machine
    console.print(
        f"{about.cores} x {about.cpu}, load average {about.load_average} before the start", markup=False, soft_wrap=True
    )
    costs = Table(title="match_svc directly, and through the gateway", title_justify="left")
    for heading in ("", "calls/s", "p50 ms", "p99 ms", "CPU us a call"):
        costs.add_column(heading)
    for name, cost in (("direct", report.direct), ("gateway", report.gateway)):
        figures = f"{cost.calls_per_second:.0f}", f"{cost.p50_ms:.2f}", f"{cost.p99_ms:.2f}", f"{cost.cpu_us:.0f}"
        costs.add_row(name, *figures)
    costs.add_row("ratio", "", f"{report.ratio_p50:.2f}", f"{report.ratio_p99:.2f}", f"{report.ratio_cpu:.2f}")
    console.print(costs)
    losses = Table(title="one of two replicas goes", title_justify="left")
    for heading in ("how", "calls", "failed"):
        losses.add_column(heading)
    for loss in report.losses:
        losses.add_row(loss.how, str(loss.calls), str(loss.failed or 0))
    console.print(losses)


def main(
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 12.0,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = _ROOT / "build/bench/edge.json",
) -> None:
    """Envoy's cost, and calls that fail when a replica goes."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="poi-mesh-bench-") as directory:
        report = uvloop.run(measure(Path(directory), seconds))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(report.model_dump_json(indent=1) + "\n")
    show(console, report)


if __name__ == "__main__":
    typer.run(main)
