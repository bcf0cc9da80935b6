"""Writers and Redis are killed with SIGKILL: what was said to be durable is there, and the chain is whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh import redis as connections
from mesh.audit import verify
from mesh.local import Redis
from tests.audit.support import STORE, records

_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def writer(url: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """A process that writes; killed at the end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "gen")])}
    command = [sys.executable, "-m", "tests.audit.writer", url, name]
    with subprocess.Popen(command, env=environment, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def durable(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines."""
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


async def check(url: str, said: list[str]) -> None:
    """Each record that was said to be durable is there, once, and nothing is wrong with the chain."""
    client = connections.connect(url)
    actions = [record.action for record in await records(client)]
    found = await verify.verify(client, STORE)
    await client.aclose()
    assert found.faults == []
    assert len(actions) == len(set(actions))
    assert {f"{one}/{each}" for one in said for each in range(4)} <= set(actions)


async def test_writers_that_are_killed_leave_a_whole_chain(redis_url: str) -> None:
    said: list[str] = []
    for round_number in range(3):
        with writer(redis_url, f"a{round_number}") as one, writer(redis_url, f"b{round_number}") as other:
            said += durable(one, 20) + durable(other, 20)
            one.kill()
            said += durable(other, 5)

    await check(redis_url, said)


async def test_redis_that_is_killed_loses_no_record(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as state, writer(state.url, "a") as one:
        said = durable(one, 20)
        for _ in range(2):
            state.kill()
            state.start()
            said += durable(one, 20)
        one.kill()

        await check(state.url, said)
