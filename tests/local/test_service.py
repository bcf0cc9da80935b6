import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.local import LaunchError, Service

TINY = "tests.local.tiny_svc"


def ask(service: Service) -> str:
    host, _, port = service.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        return connection.recv(100).decode()


def gone(pid: int) -> bool:
    """Whether a process ends within a minute, even if nobody has collected its status yet."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 60)[0])
    finally:
        os.close(handle)


def alive(pid: int) -> bool:
    os.kill(pid, 0)  # raises where there is none
    return True


def test_serves_with_the_settings_given(tmp_path: Path) -> None:
    with Service(TINY, tmp_path, {"POI_TINY_ANSWER": "good day"}) as tiny:
        assert ask(tiny) == "good day"
        assert tiny.running
    assert not tiny.running


def test_keeps_its_port_when_killed_and_started_again(tmp_path: Path) -> None:
    with Service(TINY, tmp_path) as tiny:
        target, first = tiny.target, tiny.pid

        tiny.kill()
        with pytest.raises(ConnectionRefusedError):
            ask(tiny)
        tiny.start()

        assert tiny.target == target
        assert tiny.pid != first
        assert ask(tiny) == "hello"


def test_takes_changed_settings_at_a_restart(tmp_path: Path) -> None:
    with Service(TINY, tmp_path) as tiny:
        tiny.env["POI_TINY_ANSWER"] = "changed"
        assert ask(tiny) == "hello"
        assert ask(tiny.restart()) == "changed"


def test_failure_says_which_program_and_its_last_words(tmp_path: Path) -> None:
    tiny = Service(TINY, tmp_path, {"POI_TINY_COMPLAINT": "POI_TINY_COLOUR: no such colour"}, name="tiny-2")
    with pytest.raises(LaunchError, match=r"tiny-2 ended with status 2(?s:.)*no such colour"):
        tiny.start()
    assert not tiny.running


def test_gives_up_on_a_program_that_never_serves(tmp_path: Path) -> None:
    silent = Service("this", tmp_path)  # prints a poem and ends with status 0
    with pytest.raises(LaunchError, match="this ended with status 0"):
        silent.start()
    deaf = Service("asyncio", tmp_path, start_timeout=0.5)
    deaf._command = lambda: ["sleep", "60"]  # type: ignore[method-assign]
    with pytest.raises(LaunchError, match=r"did not answer within 0\.5 s"):
        deaf.start()
    assert not deaf.running


def test_stop_does_not_wait_for_ever_for_a_deaf_one_and_takes_its_children(tmp_path: Path) -> None:
    tiny = Service(TINY, tmp_path, {"POI_TINY_DEAF": "1", "POI_TINY_CHILD": "1"}, grace=0.3).start()
    pid, child = tiny.pid, int(tiny.log_tail().split()[-1])
    assert alive(child)

    tiny.stop()

    assert gone(pid)
    assert gone(child)


def test_nothing_is_left_behind_when_the_launcher_is_killed(tmp_path: Path) -> None:
    launcher = (
        "import sys, pathlib; from mesh.local import Service\n"
        f"print(Service({TINY!r}, pathlib.Path(sys.argv[1])).start().pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", launcher, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)

        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()

        assert gone(pid)
