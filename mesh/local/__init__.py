"""Runs the whole mesh on one machine, Redis and MQTT broker included, for the demo, the benchmark and tests.

Everything listens on the loopback interface on a free port, keeps its data in a directory of its own, writes its output
to a log file, and dies with the process that started it. Each program can be killed with SIGKILL and started again on
the same port and the same data, which is what the crash tests do.

The calls block (plain `subprocess`): from a coroutine use `await asyncio.to_thread(program.restart)`.
"""

from mesh.local.broker import Broker
from mesh.local.control import Envoy
from mesh.local.mesh import MODULES, USUAL, USUAL_PORTS, Mesh
from mesh.local.ports import free_port
from mesh.local.program import LaunchError, Program
from mesh.local.redis import Redis
from mesh.local.service import Service

__all__ = [
    "MODULES",
    "USUAL",
    "USUAL_PORTS",
    "Broker",
    "Envoy",
    "LaunchError",
    "Mesh",
    "Program",
    "Redis",
    "Service",
    "free_port",
]
