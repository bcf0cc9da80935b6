"""What a measurement must say about its machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import psutil
import redis

from bench.results import Machine
from mesh.local import Mesh


def describe(mesh: Mesh) -> Machine:
    """This machine, and the versions of what the running mesh stands on."""
    with redis.Redis.from_url(mesh.redis_url) as client:
        redis_version = client.info("server")["redis_version"]
    return Machine(
        cpu=cpu(),
        cores=psutil.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=platform.platform(),
        python=platform.python_version(),
        broker=_broker(mesh),
        redis=f"Redis {redis_version}",
        load_average=round(os.getloadavg()[0], 2),
    )


def _broker(mesh: Mesh) -> str:
    if mesh.broker is None or not mesh.broker.durable:
        return "amqtt"
    program = psutil.Process(mesh.broker.pid).exe()
    help_text = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    return help_text.partition("\n")[0]


def cpu() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
