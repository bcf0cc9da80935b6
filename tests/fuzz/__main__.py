"""`python -m tests.fuzz`: all targets, two at a time, a share of the time each."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mesh.local import Redis
from tests.fuzz.targets import RATES, WEIGHTS
from tests.fuzz.worker import LEFT_OUT

_AT_ONCE = 2
_SLACK_SECONDS = 240
"""Beyond its time, for the last input and a busy machine."""
_STATS = re.compile(r"#(\d+)\s.*cov: (\d+) ft: \d+ corp: (\d+)")


class Result(NamedTuple):
    """What a target did."""

    target: str
    status: int
    seconds: float
    executions: int
    coverage: int
    corpus: int
    log: str


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(WEIGHTS)}; all by default")
    parser.add_argument("--seconds", type=float, default=1800.0, help="of fuzzing in all; two targets run at a time")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of chance: the same inputs again, as many of them on any machine; 0: others",
    )
    parser.add_argument("--reproduce", type=Path, metavar="FINDING", help="run a finding of one target once more")
    parser.add_argument("--dir", type=Path, default=Path("build/fuzz"), help="where corpus and findings are")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs them; 1 where something was found."""
    options = _options(arguments)
    if find_spec("atheris") is None:
        print("fuzzing needs atheris, which has wheels for Linux on x86-64 and Python 3.11 to 3.14 only: left out")
        return 0
    targets = options.targets or list(WEIGHTS)
    weight = sum(WEIGHTS.get(target, 1) for target in targets)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch, Redis(Path(scratch), appendfsync="no") as redis:
        if options.reproduce:
            command = ["--reproduce", str(options.reproduce), targets[0]]
            return subprocess.run(_command(command), env=_env(redis, scratch, 0), check=False).returncode

        def run(number: int) -> Result:
            target = targets[number]
            seconds = options.seconds * WEIGHTS.get(target, 1) / weight
            arguments = [target, "--seconds", f"{seconds:.0f}", "--dir", str(options.dir)]
            if options.seed:
                executions = round(seconds * RATES.get(target, 20))
                arguments += ["--seed", str(options.seed), "--executions", str(executions)]
            return _run(target, seconds, _command(arguments), _env(redis, scratch, number))

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            results = list(pool.map(run, range(len(targets))))
    return _tell(results, options.dir)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.worker", *arguments]


def _env(redis: Redis, scratch: str, number: int) -> dict[str, str]:
    """Each target has a database of Redis and a directory of its own."""
    own = {
        "POI_REDIS_URL": redis.url.removesuffix("/0") + f"/{number % 16}",
        "POI_HISTORY_DATA_DIR": f"{scratch}/history-{number}",
        "POI_FUZZ_DIR": f"{scratch}/{number}",
        "POI_EMBED_CACHE_DIR": os.environ.get("POI_EMBED_CACHE_DIR", ""),
        "PYTHONHASHSEED": "0",  # sets in the same order each time
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("POI_FUZZ")} | own


def _run(target: str, seconds: float, command: Sequence[str], env: dict[str, str]) -> Result:
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
    hung = threading.Timer(seconds + _SLACK_SECONDS, process.kill)
    hung.start()
    assert process.stdout is not None
    lines: list[str] = []
    counts = (0, 0, 0)
    for line in process.stdout:  # gigabytes in an hour, of which the last pages tell what happened
        found = _STATS.match(line)
        if found:
            counts = (int(found[1]), int(found[2]), int(found[3]))
        elif not line.startswith(("INFO: ", "WARNING: Failed")):
            lines = [*lines[-200:], line]
    status = process.wait()
    hung.cancel()
    return Result(target, status, seconds, *counts, log="".join(lines))


def _tell(results: Sequence[Result], directory: Path) -> int:
    found = [each for each in results if each.status not in (0, LEFT_OUT)]
    for each in found:
        print(f"--- {each.target}: status {each.status}\n{each.log}")
    print(f"{'target':<12}{'seconds':>9}{'executions':>12}{'per second':>12}{'coverage':>10}{'corpus':>8}")
    for each in results:
        if each.status == LEFT_OUT:
            print(f"{each.target:<12}left out: {each.log.strip()}")
            continue
        rate = each.executions / each.seconds
        numbers = f"{each.seconds:>9.0f}{each.executions:>12}{rate:>12.0f}{each.coverage:>10}{each.corpus:>8}"
        print(f"{each.target:<12}{numbers}{'   FOUND SOMETHING' if each in found else ''}")
    for each in found:
        for path in sorted((directory / "findings").glob(f"{each.target}-*")):
            print(f"reproduce: {sys.executable} -m tests.fuzz {each.target} --reproduce {path}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
