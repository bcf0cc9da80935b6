"""Where the time of each server goes: py-spy samples it from outside while it is under load."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

_RATE_HZ = 150
_SHOWN = 25


def _program() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if not found:
        raise FileNotFoundError("py-spy is not installed (it is among the packages of `make bench`)")
    return found


async def record(pids: Mapping[str, int], seconds: float, directory: Path) -> dict[str, list[str]]:
    """Samples the given processes for so long, and gives the functions that each spent most in, "share function".

    Writes `<name>.folded` (for flame graphs) into the directory, which must exist. Processes that are no Python, or
    not ours to look into, are left out.
    """
    program = _program()
    started = {
        name: (
            directory / f"{name}.folded",
            await asyncio.create_subprocess_exec(
                program, "record", "--pid", str(pid), "--duration", str(round(seconds)), "--rate", str(_RATE_HZ),
                "--format", "raw", "--output", str(directory / f"{name}.folded"), "--nonblocking",
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            ),
        )
        for name, pid in pids.items()
    }  # fmt: skip
    hot: dict[str, list[str]] = {}
    for name, (path, process) in started.items():
        if await process.wait() == 0 and path.exists():
            hot[name] = summarise(path.read_text())
    return hot


def summarise(folded: str) -> list[str]:
    """The functions of a folded profile by the share of samples that were in them or in what they called."""
    total = 0
    inside: Counter[str] = Counter()
    itself: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        total += int(count)
        itself[frames[-1]] += int(count)
        for frame in set(frames):
            inside[frame] += int(count)
    return [
        f"{count / total:6.1%} in all {itself[frame] / total:6.1%} itself  {frame}"
        for frame, count in inside.most_common(_SHOWN)
    ]
