"""`python -m clients.replay`: plays a recording, or synthetic cameras, into a broker."""

import signal
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from clients.replay import CameraTraffic, Evidence, Mixed, Progress, Recording, Replay, SceneTraffic, Traffic
from clients.replay.traffic import epoch_ms


def main(
    file: Annotated[
        Path | None, typer.Argument(help="Recording: JSON lines {t_ms, topic, payload}, plain or .gz. None: synthetic.")
    ] = None,
    mqtt: Annotated[
        str, typer.Option(envvar="POI_MQTT_URL", help="Broker, mqtt://[user:password@]host[:port] or mqtts://")
    ] = "mqtt://127.0.0.1:1883",
    speed: Annotated[float, typer.Option(help="How many times faster than recorded.")] = 1.0,
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move the times in the messages so that the last one is sent 'now'.")
    ] = False,
    start: Annotated[
        datetime | None, typer.Option(help="Move the times in the messages so that the recording starts then.")
    ] = None,
    media: Annotated[
        Path | None, typer.Option(help="Directory of the clips that the recorded cameras show when asked for a frame.")
    ] = None,
    cameras: Annotated[int, typer.Option(help="Synthetic: cameras.")] = 2,
    faces: Annotated[int, typer.Option(help="Synthetic: faces a message.")] = 2,
    rate: Annotated[float, typer.Option(help="Synthetic: messages a second from each camera.")] = 10.0,
    seconds: Annotated[float, typer.Option(help="Synthetic: how long.")] = 30.0,
) -> None:
    """Plays recorded or synthetic camera and scene messages into an MQTT broker, and waits until all are confirmed."""
    console = Console(stderr=True)
    try:
        traffic: Traffic
        if file is None:
            seen = CameraTraffic(cameras=cameras, faces=faces, rate=rate, seconds=seconds)
            traffic = Mixed([seen, SceneTraffic(people=max(round(seconds / 15), 1))])
        else:
            traffic = Recording.load(file, shift=shift_to_now or start is not None)
        evidence = Evidence.of_recorded_store(media) if media and file else Evidence()
        columns = (TextColumn("replay"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
        with Bar(*columns, console=console) as bar:
            task = bar.add_task("replay", total=traffic.duration_ms, state="")

            def show(progress: Progress) -> None:
                bar.update(task, completed=progress.at_ms, state=_state(progress))

            start_ms = epoch_ms(start.isoformat()) if start else None
            replay = Replay(traffic, mqtt, speed=speed, start_ms=start_ms, evidence=evidence, on_progress=show)
            signal.signal(signal.SIGINT, lambda number, frame: _end(replay, number, frame))
            done = replay.run()
    except (OSError, ValueError) as error:  # TimeoutError and ConnectionError are OSErrors
        console.print(f"replay: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    if 0 < done.published == done.unheard:
        console.print("replay: nobody subscribes to these topics at this broker", style="yellow")


def _state(progress: Progress) -> str:
    text = f"{progress.published} messages, {progress.confirmed} confirmed"
    if progress.repeated:
        text += f", {progress.repeated} repeated"
    return text if progress.connected else text + ", broker gone"


def _end(replay: Replay, number: int, frame: FrameType | None) -> None:
    replay.stop()


if __name__ == "__main__":
    typer.run(main)
