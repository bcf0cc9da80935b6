"""`make demo SECURE=1 ONCE=1`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

_ROOT = Path(__file__).resolve().parents[2]
_GATEWAY = re.compile(r"REST, gRPC-Web and gRPC: https://(\S+) ")


@pytest.mark.timeout(600)
def test_the_demo_with_everything_on(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "demo", "--once", "--secure"]
    said: list[str] = []
    with subprocess.Popen(command, cwd=_ROOT, env=env, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        try:
            for line in demo.stdout:
                said.append(line)
                if found := _GATEWAY.search(line):
                    _knock(found[1])
            status = demo.wait(120)
        finally:
            demo.terminate()

    output = "".join(said)
    assert status == 0, output
    assert "all is well" in output
    assert re.search(r"Audit: \d+ records, .*the chain is sound", output), output
    assert not list(tmp_path.iterdir()), "keys, tokens and all that was stored are gone with it"


@pytest.mark.timeout(300)
def test_nothing_secret_is_left_of_a_demo_that_is_told_to_end(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "TMPDIR": str(tmp_path), "POI_SHARED": "/nowhere"}
    command = [sys.executable, "-m", "demo", "--secure"]
    with subprocess.Popen(command, cwd=_ROOT, env=env, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if _GATEWAY.search(line):
                break
        assert list(tmp_path.glob("*/pki/match/tls.key"))
        demo.terminate()
        demo.stdout.read()
        assert demo.wait(120) == 128 + signal.SIGTERM

    assert not list(tmp_path.iterdir())


def _knock(gateway: str) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{gateway}/healthz", timeout=60)
    for path, status in (("/healthz", 200), ("/v1/stores/store-1/alerts", 401), ("/v1/stores/store-1/pois", 401)):
        assert httpx.get(f"https://{gateway}{path}", verify=False, timeout=60).status_code == status
