"""A picture of a person's way: when in front of which camera and in which zone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from matplotlib.figure import Figure
from poi.v1 import history_pb2

CAMERA: Final = "#2a6fb0"
ZONE: Final = "#e39a3b"
_FRAME: Final = "#b3261e"
_DPI: Final = 120
_DAY_MS: Final = 86_400_000
_SECOND: Final = 1 / 86_400


def draw(
    title: str,
    steps: Sequence[history_pb2.JourneyStep],
    frames: Sequence[history_pb2.Frame],
    path: Path,
) -> None:
    """Writes a PNG: a row for each place of at least one step, a bar for each step, a mark for each frame.

    Times are UTC. No display is needed: a Figure without pyplot is drawn by Agg.
    """
    rows = _rows(steps)
    figure = Figure(figsize=(11, 1.6 + 0.5 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for step in steps:
        left, right = _day(step.start_time), _day(step.end_time)
        row = rows[step.camera or step.zone]
        axes.barh(row, max(right - left, 1e-9), left=left, height=0.55, color=CAMERA if step.camera else ZONE)
        seconds = (step.end_time.ToMilliseconds() - step.start_time.ToMilliseconds()) / 1000
        text = f"{seconds:.1f} s, {step.similarity:.2f}" if step.camera else f"{seconds:.1f} s"
        axes.annotate(text, (right, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    shown = [frame for frame in frames if frame.kind != history_pb2.FRAME_KIND_EVIDENCE]  # those are made of others
    seen = [frame for frame in shown if frame.camera in rows]
    axes.plot(
        [_day(frame.capture_time) for frame in seen],
        [rows[frame.camera] - 0.38 for frame in seen],
        linestyle="",
        marker="v",
        color=_FRAME,
        label="evidence frame",
    )
    axes.set_yticks(list(rows.values()), [place.rpartition("/")[2] for place in rows])
    axes.invert_yaxis()
    axes.xaxis_date(tz="UTC")
    axes.xaxis.set_major_formatter(
        lambda day, _: datetime.fromtimestamp(day * _DAY_MS / 1000, UTC).strftime("%H:%M:%S")
    )
    # Room for the text behind the last bar, and for a mark at the first edge.
    first, last = min(_day(step.start_time) for step in steps), max(_day(step.end_time) for step in steps)
    axes.set_xlim(first - 0.02 * (last - first) - _SECOND, last + 0.12 * (last - first) + _SECOND)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title, loc="left")
    axes.set_xlabel("UTC; bars: time in front of a camera (with the similarity) and in a zone")
    if seen:
        figure.legend(loc="outside upper right", fontsize=8)
    figure.savefig(path, dpi=_DPI)


def _rows(steps: Sequence[history_pb2.JourneyStep]) -> dict[str, int]:
    """The row of each place: cameras on top, then zones, each as they were reached."""
    cameras = [step.camera for step in steps if step.camera]
    zones = [step.zone for step in steps if step.zone]
    return {place: row for row, place in enumerate(dict.fromkeys([*cameras, *zones]))}


def _day(moment: Timestamp) -> float:
    """A moment as matplotlib counts time: in days since 1970."""
    return moment.ToMilliseconds() / _DAY_MS
