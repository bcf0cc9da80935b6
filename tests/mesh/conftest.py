"""The echo service: its contract compiled, itself in this process or in one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_tools import protoc

from mesh.server import Server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of the stubs of echo.proto, importable."""
    out = tmp_path_factory.mktemp("echo")
    roots = (HERE, ROOT / "third_party" / "proto", files("grpc_tools") / "_proto")
    paths = [f"--proto_path={root}" for root in roots]
    status = protoc.main(["protoc", *paths, f"--python_out={out}", f"--grpc_python_out={out}", "echo.proto"])
    assert status == 0
    added = [str(out), str(HERE)]
    sys.path += added
    yield out
    for path in added:
        sys.path.remove(path)


@pytest.fixture(scope="session")
def pb(compiled: Path) -> Any:
    """The messages of echo.proto."""
    return importlib.import_module("echo_pb2")


@pytest.fixture(scope="session")
def pb_grpc(compiled: Path) -> Any:
    """The service of echo.proto."""
    return importlib.import_module("echo_pb2_grpc")


@dataclass
class Running:
    """An echo server in this process, with a plain client (no retries, no deadline)."""

    server: Server
    servicer: Any
    channel: grpc.aio.Channel
    stub: Any


@pytest.fixture
async def echo(pb: Any, pb_grpc: Any) -> AsyncIterator[Running]:
    """An echo server that logs at debug level and does not linger."""
    module = importlib.import_module("mesh_echo")
    settings = module.Settings(log_level="debug", drain_seconds=0.0, grace_seconds=1.0)
    server = Server(settings)
    servicer = module.Echo(pb, server.draining)
    server.add(pb_grpc.add_EchoServiceServicer_to_server, servicer, module.SERVICE)
    async with server, grpc.aio.insecure_channel(server.address) as channel:
        yield Running(server, servicer, channel, pb_grpc.EchoServiceStub(channel))


@dataclass
class Process:
    """An echo server in a process of its own."""

    popen: subprocess.Popen[bytes]
    address: str
    metrics: str
    ready_file: Path
    log_file: Path

    def log(self) -> list[dict[str, Any]]:
        """Its log lines so far."""
        return [json.loads(line) for line in self.log_file.read_bytes().splitlines()]


@pytest.fixture
def environment(compiled: Path) -> dict[str, str]:
    """The environment of an echo server."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POI_")}
    return clean | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen"), str(compiled)])}


Start = Callable[..., Any]


@pytest.fixture
async def start(environment: dict[str, str], tmp_path: Path) -> AsyncIterator[Start]:
    """Start an echo server with these settings; it is killed at the end if it still runs."""
    started: list[subprocess.Popen[bytes]] = []

    async def run(**settings: object) -> Process:
        number = len(started)
        ready, log = tmp_path / f"ready{number}", tmp_path / f"log{number}"
        variables = {f"POI_{name.upper()}": str(value) for name, value in settings.items()}
        with log.open("wb") as stderr:
            popen = subprocess.Popen(  # noqa: ASYNC220  # a fork; tests wait for its end in a thread
                [sys.executable, str(HERE / "mesh_echo.py")],
                env=environment | {"POI_READY_FILE": str(ready), "POI_MARKS": str(tmp_path / "marks")} | variables,
                stderr=stderr,
            )
        started.append(popen)
        async with asyncio.timeout(90):
            while not ready.exists():
                assert popen.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
        said = json.loads(ready.read_bytes())
        assert said["pid"] == popen.pid
        return Process(popen, said["listen"], said["metrics"], ready, log)

    yield run
    for popen in started:
        with contextlib.suppress(ProcessLookupError):
            popen.kill()
        popen.wait()
