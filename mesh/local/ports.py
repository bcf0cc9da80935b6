"""Free ports for servers that are killed and come back."""

import random
import socket

# Below the range from which Linux and macOS take the source ports of outgoing connections (32768 or 49152 and up). A
# client that keeps dialling a dead server's port in that range is sooner or later given the very same number as its
# source port, connects to itself, and the server cannot have its port back.
_PORTS = range(15_000, 32_000)

_given: set[int] = set()
"""Whoever was given one may not listen yet: of the eight that a mesh draws first, two would be alike now and then."""


def free_port() -> int:
    """A TCP port that is free on 127.0.0.1 now, that was not given before, and that outgoing connections do not take.

    Raises:
        OSError: no free port was found in 100 attempts.
    """
    if len(_given) > len(_PORTS) // 2:
        _given.clear()
    for _ in range(100):
        port = random.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise OSError(f"no free port on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop}")
