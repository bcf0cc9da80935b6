"""`make demo`, or `python -m demo [--once]`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
import uvloop
from poi.v1 import alert_pb2
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from clients.replay import Progress, Replay
from demo import erasure, keep, material, secure, show
from demo.steps import SeenAlert, Steps
from demo.webhook import Receiver
from mesh.errors import MeshError
from mesh.local import MODULES, USUAL_PORTS, LaunchError, Mesh, free_port

_DELIVERY_SECONDS = 10.0
_PICTURE_SECONDS = 10.0
_SETTLE_SECONDS = 15.0
"""How long after the replay alerts and visits may still come: people who vanish close their visits at a gap."""


def main(
    once: Annotated[bool, typer.Option("--once", help="End by itself, with a summary.")] = False,
    secured: Annotated[bool, typer.Option("--secure", help="TLS, roles, audit and sealed storage.")] = False,
) -> None:
    """The whole mesh on this machine: enrol, replay a store through a broker, alerts, search, dwell times."""
    console = Console(highlight=False)
    store = os.environ.get("POI_STORE", "store-1")
    with tempfile.TemporaryDirectory(prefix="poi-mesh-demo-") as directory:
        try:
            done = _run(_demo(console, store, Path(directory), once, secured))
        except (LaunchError, MeshError, OSError) as error:
            console.print(f"demo: {error}", style="red", markup=False)
            raise typer.Exit(1) from None
        except grpc.aio.AioRpcError as error:
            console.print(f"demo: {error.code().name}: {error.details()}", style="red", markup=False)
            raise typer.Exit(1) from None
        except asyncio.CancelledError:
            raise typer.Exit(128 + signal.SIGTERM) from None
        except KeyboardInterrupt:
            raise typer.Exit(0 if not once else 130) from None
    raise typer.Exit(0 if done else 1)


def _run(work: Coroutine[Any, Any, bool]) -> bool:
    return uvloop.run(work)


async def _demo(console: Console, store: str, directory: Path, once: bool, secured: bool) -> bool:
    task = asyncio.current_task()
    assert task is not None
    # As Ctrl-C: what was stored, and keys and tokens, goes with the demo.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    console.rule("poi-mesh: from a camera's message to an alert")
    scene, shortfall = await asyncio.to_thread(material.find, store)
    if shortfall:
        console.print(f"{shortfall}\nSo this demo plays synthetic detections.", style="yellow", markup=False)
    console.print(f"Plays {scene.title}.")
    mesh = await asyncio.to_thread(_start, console, scene, store, directory, secured)
    try:
        async with Steps(mesh, store) as steps:
            with Receiver() as receiver, secure.identities(mesh, store) if secured else contextlib.nullcontext():
                done = await _story(console, mesh, scene, steps, receiver)
                if secured:
                    done = await secure.audited(console, mesh, store) and done
                if not once:
                    (secure if secured else show).commands(console, mesh, store)
                    await asyncio.Event().wait()
                return done
    finally:
        await asyncio.to_thread(mesh.stop)


def _start(console: Console, scene: material.Material, store: str, directory: Path, secured: bool) -> Mesh:
    # Nobody comes back into view here: exit frames need not wait for the usual 10 s.
    # And the webhook is on this machine: private addresses are refused otherwise.
    env = {
        "POI_STORE": store,
        "POI_INGEST_GAP_SECONDS": "2",
        "POI_ALERT_DELIVERY_ALLOW_NETWORKS": '["127.0.0.0/8"]',
        "POI_ALERT_WEBSOCKET_LISTEN": os.environ.get("POI_ALERT_WEBSOCKET_LISTEN")
        or f"127.0.0.1:{_usual_or_free(7015)}",
    }
    if secured:
        env |= secure.settings(directory, store)
    if scene.models is not None:
        env["POI_MODELS_DIR"] = str(scene.models)
    with console.status("starting") as status:
        mesh = Mesh(
            directory,
            redis_url=os.environ.get("POI_REDIS_URL"),
            mqtt_url=os.environ.get("POI_MQTT_URL"),
            env=env,
            services=[name for name in MODULES if name != "embed" or scene.models is not None],
            progress=lambda program, state: status.update(f"{program} {state}"),
            ports=_usual_ports(),
            gateway=f"127.0.0.1:{_usual_or_free(8080)}",
            secure=secured,
        ).start()
    console.print(f"Started {', '.join(program.name for program in mesh.programs)}.")
    if mesh.gateway is not None:
        scheme = "https" if secured else "http"
        console.print(f"REST, gRPC-Web and gRPC: {scheme}://{mesh.gateway.gateway} (every call: /openapi.json)")
    return mesh


def _usual_ports() -> dict[str, int]:
    """The services' usual ports, those that nobody uses, so that what the README shows works as it stands."""
    free: dict[str, int] = {}
    for name, port in USUAL_PORTS.items():
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free[name] = port
    return free


def _usual_or_free(port: int) -> int:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return port
    return free_port()


async def _story(console: Console, mesh: Mesh, scene: material.Material, steps: Steps, receiver: Receiver) -> bool:
    photos: dict[str, tuple[bytes, ...]] = {}
    for person in scene.people:
        with console.status(f"enrolling {person.poi_id}"):
            poi, photos[person.poi_id] = await steps.enrol(person)
        photos_used = "1 photo" if len(poi.references) == 1 else f"{len(poi.references)} photos"
        source = photos_used if person.photos else "an embedding"
        console.print(f"Enrolled {poi.display_name} ({poi.name}) from {source}.")

    await steps.deliver_to(receiver.url, receiver.secret)
    alerts = await _play(console, mesh.mqtt_url, scene, steps)
    delivered = await _work(console, steps, receiver, alerts)

    pictures = await steps.pictures(_PICTURE_SECONDS)

    wanted = scene.people[0]
    photo = next(iter(photos[wanted.poi_id]), None)
    found = await steps.search(wanted, photo)
    how = "photo" if photo is not None else "embedding"
    show.hits(console, f"Where was {wanted.display_name}? (search by {how})", found)
    way = await steps.journey(wanted, photo)
    show.journey(console, f"Which way did {wanted.display_name} go?", way)
    title = f"{wanted.display_name}: cameras and zones"
    show.files(console, await keep.keep(steps, title, found.hits, way, photo))
    show.visits(console, await steps.visits())
    framed = await steps.appearances_with_frames()
    # Somebody else than whom all the rest is about: what was shown of them can still be looked at.
    leaving = scene.people[-1]
    photo = next(iter(photos[leaving.poi_id]), None)
    erased = await erasure.erase(console, mesh, steps, leaving, photo)
    good = delivered and erased
    return _summary(console, scene, alerts, found.total_size, framed, delivered=good, pictured=len(pictures))


async def _play(console: Console, mqtt_url: str, scene: material.Material, steps: Steps) -> list[SeenAlert]:
    """Replays the traffic and shows the alerts as they come; returns when no more are to be expected."""
    alerts: list[SeenAlert] = []
    listening = asyncio.Event()
    expected = sum(person.appearances or 0 for person in scene.people)
    enough = asyncio.Event()
    columns = (TextColumn("cameras"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("cameras", total=scene.traffic.duration_ms, state="")

        def progress(now: Progress) -> None:
            bar.update(task, completed=now.at_ms, state=f"{now.published} messages, {len(alerts)} alerts")

        replay = Replay(scene.traffic, mqtt_url, evidence=scene.evidence, on_progress=progress)

        async def listen() -> None:
            async for seen in steps.alerts(replay, listening):
                alerts.append(seen)
                show.alert(bar.console, seen)
                if expected and len(alerts) >= expected:
                    enough.set()

        listener = asyncio.create_task(listen())
        try:
            async with asyncio.timeout(30):
                await listening.wait()
            await steps.cameras_are_heard()
            await asyncio.to_thread(replay.run)
            bar.update(task, state="waiting for the last visits to end")
            await _settle(steps, enough if expected else None)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
    return alerts


async def _work(console: Console, steps: Steps, receiver: Receiver, alerts: list[SeenAlert]) -> bool:
    """Acknowledges the first alert, and shows what the webhook was told: whether that is all there was to tell."""
    wanted = {(seen.alert.name, int(alert_pb2.ALERT_EVENT_RAISED)) for seen in alerts}
    if alerts:
        acknowledged = await steps.acknowledge(alerts[0].alert, "demo operator", "on my way")
        show.acknowledgement(console, acknowledged)
        wanted.add((acknowledged.name, int(alert_pb2.ALERT_EVENT_ACKNOWLEDGED)))
    is_complete = await receiver.wait_for(wanted, _DELIVERY_SECONDS)
    show.deliveries(console, receiver.url, receiver.messages, receiver.refused)
    if not is_complete:
        console.print("the webhook did not get all of it", style="red")
    return is_complete and not receiver.refused


async def _settle(steps: Steps, enough: asyncio.Event | None) -> None:
    """Wait until the expected alerts are here and every visit has ended, but not for ever."""
    deadline = asyncio.get_running_loop().time() + _SETTLE_SECONDS
    if enough is not None:
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await enough.wait()
        except TimeoutError:
            return
    while asyncio.get_running_loop().time() < deadline:
        if all(visit.HasField("exit_time") for visit in await steps.visits()):
            return
        await asyncio.sleep(0.5)


def _summary(
    console: Console,
    scene: material.Material,
    alerts: list[SeenAlert],
    found: int,
    framed: int,
    *,
    delivered: bool,
    pictured: int,
) -> bool:
    by_person = Counter(seen.alert.match.poi.rpartition("/")[2] for seen in alerts)
    latencies = sorted(seen.latency_ms for seen in alerts if seen.latency_ms is not None)
    console.rule("summary")
    good = bool(alerts) and found > 0 and delivered
    for person in scene.people:
        count, expected = by_person.pop(person.poi_id, 0), person.appearances
        if expected is not None:
            good = good and count == expected
        of = "" if expected is None else f" of {expected}"
        console.print(f"{person.display_name}: {count}{of} appearances alerted, each once")
    if by_person:
        good = False
        console.print(f"alerts of others: {dict(by_person)}", style="red", markup=False)
    elif all(person.appearances is not None for person in scene.people):
        console.print("strangers: no alert")
    if latencies:
        console.print(
            f"alert latency: median {latencies[len(latencies) // 2]:.0f} ms, worst {latencies[-1]:.0f} ms "
            "from the camera's message to the client"
        )
    console.print(f"the search found {found} appearances; {framed} appearances have evidence frames")
    if pictured:
        console.print(f"{pictured} alerts have a picture: face, frame and reference side by side")
    console.print("all is well" if good else "something is missing", style="green" if good else "red")
    return good


if __name__ == "__main__":
    typer.run(main)
