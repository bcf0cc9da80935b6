"""`python -m tests.fuzz.worker`: one target in a process of its own; started by `python -m tests.fuzz`."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import os
import sys
import traceback
from collections import deque
from pathlib import Path
from time import monotonic

from mesh import telemetry
from tests.fuzz.target import LeftOut, Target

ROOMS = ("mesh", "embed_svc", "match_svc", "history_svc", "alert_svc", "ingest_svc")
_READERS = {"images": ["PIL"]}
"""Not ours, but written in Python and the first to read what comes from outside; it takes seconds to instrument."""
LEFT_OUT = 3
_BEFORE = 500
"""Inputs before a finding that are kept with it, of a target that remembers."""
_HANG_SECONDS = 60  # far beyond what any input may take, also on a machine that is busy with other things
_MEMORY_MB = 2500


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", help="a module of tests.fuzz.targets, or any other by its whole name")
    parser.add_argument("--seconds", type=float, default=60.0, help="from the start of this process")
    parser.add_argument("--dir", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--seed", type=int, default=0, help="of chance; 0: another one each time")
    parser.add_argument("--executions", type=int, default=-1, help="after so many it ends before its time")
    parser.add_argument("--reproduce", type=Path, help="run this finding and nothing else")
    return parser.parse_args()


def main() -> None:
    """Fuzzes for so many seconds; exits with another status than 0 after a finding, or 3 where it cannot run here."""
    started, options = monotonic(), _options()
    os.environ |= {"OPENCV_LOG_LEVEL": "OFF", "GRPC_VERBOSITY": "ERROR"}
    import atheris

    telemetry.configure("error", "json", "fuzz")
    logging.getLogger("atheris").setLevel(logging.WARNING)
    name = options.target if "." in options.target else f"tests.fuzz.targets.{options.target}"
    try:
        with atheris.instrument_imports(
            include=[*ROOMS, *_READERS.get(options.target, ())], enable_loader_override=False
        ):
            target: Target = importlib.import_module(name).make()
    except LeftOut as reason:
        print(reason)
        sys.exit(LEFT_OUT)
    if options.reproduce:
        for path in [options.reproduce] if options.reproduce.is_file() else sorted(options.reproduce.iterdir()):
            target.test(path.read_bytes())
        print(f"{options.reproduce}: nothing wrong")
        return

    findings, corpus = options.dir / "findings", options.dir / "corpus" / options.target
    for directory in (findings, corpus):
        directory.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)

    before: deque[bytes] = deque(maxlen=_BEFORE if target.remembers else 0)

    def test(data: bytes) -> None:
        try:
            target.test(data)
        except BaseException:  # also what ends a process, as SystemExit does
            traceback.print_exc()
            print(f"finding: {_keep(findings, options.target, [*before, data])}", file=sys.stderr, flush=True)
            os._exit(1)
        before.append(data)

    left = max(1, round(options.seconds - (monotonic() - started)))
    arguments = {
        "seed": options.seed,
        "runs": options.executions,
        "max_total_time": left,
        "timeout": _HANG_SECONDS,
        "rss_limit_mb": _MEMORY_MB,
        "max_len": target.largest,
        "artifact_prefix": f"{findings}/{options.target}-",
        "print_final_stats": 1,
        "len_control": 0,
    }
    mutate = {"custom_mutator": target.mutate} if target.mutate else {}
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in arguments.items()), str(corpus)], test, **mutate)
    atheris.Fuzz()


def _keep(findings: Path, target: str, inputs: list[bytes]) -> Path:
    """Writes a file, or a directory of the inputs in their order."""
    path = findings / f"{target}-{hashlib.sha1(inputs[-1]).hexdigest()[:16]}"
    if len(inputs) == 1:
        path.write_bytes(inputs[0])
        return path
    path.mkdir(exist_ok=True)
    for number, data in enumerate(inputs):
        (path / f"{number:04}").write_bytes(data)
    return path


if __name__ == "__main__":
    main()
