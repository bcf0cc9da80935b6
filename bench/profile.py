"""Where the time of each server goes: py-spy samples it from outside while it is under load."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

_RATE_HZ = 150
_SHOWN = 25
_LINE = re.compile(r":\d+(?=\)$)")  # `work (a.py:5)`: lines of one function belong together


async def record(pids: Mapping[str, int], seconds: float, directory: Path) -> dict[str, list[str]]:
    """Samples the given processes, one after the other, and gives the functions that held the interpreter most.

    Writes `<name>.folded` (for flame graphs) into the directory, which must exist. A process that is no Python, was
    idle, or is not ours to look into is left out.

    Raises:
        FileNotFoundError: py-spy is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    program = shutil.which(beside) or shutil.which("py-spy")
    if not program:
        raise FileNotFoundError("py-spy is not installed (it is among the packages of `make bench`)")
    hot: dict[str, list[str]] = {}
    for name, pid in pids.items():
        path = directory / f"{name}.folded"
        command = [
            program, "record", "--pid", str(pid), "--duration", str(max(round(seconds / len(pids)), 1)),
            "--rate", str(_RATE_HZ), "--gil", "--format", "raw", "--output", str(path),
        ]  # fmt: skip
        # In a thread: the event loop's own way forks, which gRPC's threads do not survive.
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
        if done.returncode == 0 and (folded := path.read_text()):
            hot[name] = summarise(folded)
    return hot


def summarise(folded: str) -> list[str]:
    """The functions of a folded profile by the share of samples that were in them or in what they called."""
    total = 0
    inside: Counter[str] = Counter()
    itself: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_LINE.sub("", frame) for frame in stack.split(";")]
        total += int(count)
        itself[frames[-1]] += int(count)
        for frame in set(frames):
            inside[frame] += int(count)
    return [
        f"{count / total:6.1%} in all {itself[frame] / total:6.1%} itself  {frame}"
        for frame, count in inside.most_common(_SHOWN)
    ]
