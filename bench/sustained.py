"""The highest rate that the mesh holds: short loads to find it, a long one to confirm it."""

from __future__ import annotations

from collections.abc import Callable

from bench.results import Run
from bench.rig import Rig

Progress = Callable[[str], None]

_STEP_UP = 1.4
_RESOLUTION = 1.06
"""The search ends when the rate that failed is this much over the one that held."""
_BACK_OFF = 0.94
"""From what held for seconds to what is tried for long, and from each failure to the next attempt."""
_CONFIRMATIONS = 5
_LOWEST = 10.0


async def find(
    rig: Rig,
    *,
    faces: int,
    start: float,
    probe_seconds: float,
    seconds: float,
    progress: Progress,
) -> Run | None:
    """The run of `seconds` at the highest rate of messages that is steady, None where even the lowest rate is not.

    Args:
        start: messages a second to begin the search with.
    """
    rate = await _search(rig, faces, start, probe_seconds, progress)
    for _ in range(_CONFIRMATIONS):
        rate *= _BACK_OFF
        progress(f"confirming {rate * faces:.0f} detections/s for {seconds:.0f} s")
        run = (await rig.load(faces=faces, rate=rate, seconds=seconds)).run
        if run.steady:
            return run
        progress(f"not sustained: {run.why_not}")
    return None


async def _search(rig: Rig, faces: int, start: float, probe_seconds: float, progress: Progress) -> float:
    held, failed = 0.0, float("inf")
    rate = start
    while True:
        progress(f"trying {rate * faces:.0f} detections/s")
        run = (await rig.load(faces=faces, rate=rate, seconds=probe_seconds)).run
        if run.steady:
            held = max(held, rate)
        else:
            progress(f"{rate * faces:.0f} detections/s: {run.why_not}")
            failed = rate
        if failed == float("inf"):
            rate = held * _STEP_UP
        elif failed / max(held, _LOWEST) <= _RESOLUTION:
            return max(held, _LOWEST)
        else:
            rate = (held * failed) ** 0.5 if held else failed / _STEP_UP
