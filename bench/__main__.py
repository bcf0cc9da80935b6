"""`make bench`, or `python -m bench`: how fast the mesh is on this machine."""

from __future__ import annotations

import asyncio
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import grpc
import typer
import uvloop
from rich.console import Console

from bench import baseline, machine, profile, report, sustained
from bench.lag import quantile
from bench.load import CAMERAS, DETECTIONS_A_TRACK, ENROLLED_SHARE, Generator
from bench.results import Latency, Report, Row, Run
from bench.rig import Rig
from mesh.errors import MeshError
from mesh.local import LaunchError

_ROOT = Path(__file__).resolve().parents[1]
_FIRST_GUESS = {1: 800.0, 4: 500.0}
"""Messages a second to begin with, by faces a message."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and how long."""

    faces: list[int]
    pois: list[int]
    seconds: float
    """Of the load that confirms a sustained rate."""
    probe_seconds: float
    latency_seconds: float
    baseline_messages: int
    rate: float
    """Detections a second to hold instead of searching for the highest; 0 searches."""
    profile: bool
    secure: bool
    out: Path


def main(
    faces: Annotated[list[int], typer.Option(help="Faces a message; may be given several times.")] = [1, 4],  # noqa: B006
    pois: Annotated[list[int], typer.Option(help="Persons enrolled; may be given several times.")] = [  # noqa: B006
        10,
        1_000,
        10_000,
    ],
    seconds: Annotated[float, typer.Option(help="How long a rate must be held.")] = 30.0,
    rate: Annotated[float, typer.Option(help="Hold this many detections/s instead of searching for the most.")] = 0.0,
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds at a low rate: does everything work?")] = False,
    profile_: Annotated[
        bool, typer.Option("--profile", help="Also sample each server at three quarters of the rate (py-spy).")
    ] = False,
    secure: Annotated[
        bool, typer.Option("--secure", help="With mutual TLS, authorisation, audit and encryption at rest.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Directory for the results.")] = _ROOT / "build" / "bench",
) -> None:
    """Measure the running mesh on this machine: sustained rate, alert latency, CPU, each beside the broker alone."""
    plan = (
        Plan([4], [10], 3.0, 2.0, 3.0, 500, rate or 100.0, profile_, secure, out)
        if quick
        else Plan(faces, sorted(pois), seconds, 4.0, min(seconds, 20.0), 8000, rate, profile_, secure, out)
    )
    console = Console(highlight=False)
    try:
        outcome = uvloop.run(_measure(plan, console))
    except (LaunchError, MeshError, OSError, RuntimeError, TimeoutError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    except grpc.aio.AioRpcError as error:
        console.print(f"bench: {error.code().name}: {error.details()}", style="red", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    report.show(console, outcome)
    console.print(f"Written to {report.write(outcome, plan.out)}", markup=False, soft_wrap=True)


async def _measure(plan: Plan, console: Console) -> Report:
    began, started = time.monotonic(), datetime.now(UTC)

    def progress(what: str) -> None:
        console.print(f"[{time.monotonic() - began:5.0f} s] {what}", style="dim", markup=False)

    plan.out.mkdir(parents=True, exist_ok=True)
    # Beside the results, not in /tmp, which may be memory: history's log is to be synced to a disk.
    with tempfile.TemporaryDirectory(prefix="run-", dir=plan.out) as directory, Generator() as generator:
        async with Rig(Path(directory) / "mesh", generator, progress, secure=plan.secure) as rig:
            about = machine.describe(rig.mesh)
            rows: list[Row] = []
            guess = dict(_FIRST_GUESS)
            for pois in plan.pois:
                await rig.enrol(pois)
                for faces in plan.faces:
                    progress(f"{faces} faces a message, {pois} POIs")
                    row = await _row(plan, rig, faces, pois, guess.get(faces, 500.0), Path(directory), progress)
                    rows.append(row)
                    if row.sustained:
                        guess[faces] = row.sustained.messages_per_second * 0.9
    rows.sort(key=lambda row: (row.faces_per_message, row.pois))
    return Report(
        started=started.isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        seconds=time.monotonic() - began,
        machine=about,
        secure=plan.secure,
        data=(
            f"synthetic, {CAMERAS} cameras, face embeddings of 256 float32 in base64 as DL Streamer sends them; each "
            f"person is seen {DETECTIONS_A_TRACK} times, {ENROLLED_SHARE:.0%} of them are enrolled"
        ),
        rows=rows,
    )


async def _row(
    plan: Plan, rig: Rig, faces: int, pois: int, guess: float, directory: Path, progress: sustained.Progress
) -> Row:
    progress("the broker alone")
    carried = await baseline.measure(
        directory / f"broker-{faces}-{pois}", rig.generator, faces=faces, messages=plan.baseline_messages
    )
    run: Run | None
    if plan.rate:
        progress(f"holding {plan.rate:.0f} detections/s for {plan.seconds:.0f} s")
        run = (await rig.load(faces=faces, rate=plan.rate / faces, seconds=plan.seconds)).run
    else:
        run = await sustained.find(
            rig,
            faces=faces,
            start=guess,
            probe_seconds=plan.probe_seconds,
            seconds=plan.seconds,
            progress=progress,
        )
    row = Row(
        faces_per_message=faces,
        pois=pois,
        sustained=run,
        latency=await _latency(rig, faces, run, plan.latency_seconds, progress) if run else None,
        baseline=carried,
        ratio=(run.detections_per_second if run else 0.0) / carried.detections_per_second,
    )
    if plan.profile and run:
        progress("profiling")
        row.hot_functions = await _profiled(rig, plan, faces, pois, run)
    return row


async def _latency(rig: Rig, faces: int, run: Run, seconds: float, progress: sustained.Progress) -> Latency | None:
    progress(f"alert latency at {run.detections_per_second / 2:.0f} detections/s for {seconds:.0f} s")
    loaded = await rig.load(faces=faces, rate=run.messages_per_second / 2, seconds=seconds)
    took = sorted(
        (arrival.at - loaded.played.published_at[arrival.key]) * 1e3
        for arrival in loaded.arrivals
        if arrival.key in loaded.played.published_at
    )
    if not took:
        return None
    return Latency(
        run=loaded.run,
        alerts=len(took),
        p50_ms=quantile(took, 0.5),
        p95_ms=quantile(took, 0.95),
        p99_ms=quantile(took, 0.99),
        max_ms=took[-1],
    )


async def _profiled(rig: Rig, plan: Plan, faces: int, pois: int, run: Run) -> dict[str, list[str]]:
    """Under three quarters of the load, so that the sampling itself does not tip it over."""
    directory = plan.out / f"profile-{faces}-{pois}"
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    servers = {name: rig.pids[name] for name in rig.mesh.services}
    return await rig.while_loaded(
        profile.record(servers, plan.seconds, directory),
        faces=faces,
        rate=run.messages_per_second * 0.75,
        seconds=plan.seconds + 10,
    )


if __name__ == "__main__":
    typer.run(main)
