"""A program of the mesh as a child process: started, watched until ready, killed, restarted."""

import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

_LEASH = Path(__file__).with_name("_leash.py")
_LOG_TAIL_LINES = 20

# The kernel's parent-death signal fires when the *thread* that forked ends, so every child is forked by this one
# thread, which lives as long as the interpreter.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-local-spawner")


class LaunchError(RuntimeError):
    """A program did not start. The message names it, says why, how to fix it, and ends with its last log lines."""


class Program(ABC):
    """One child process with a log file; `start` returns when it answers.

    `kill` is SIGKILL to the whole process group (a crash), `stop` is SIGTERM and, after `grace` seconds, SIGKILL.
    After either, `start` brings it back on the same port and data. As a context manager it starts and stops.
    """

    def __init__(self, name: str, data_dir: Path, *, start_timeout: float = 60.0, grace: float = 30.0) -> None:
        self.name = name
        """Shown in progress and errors; the log file is `<data_dir>/<name>.log`."""
        self.data_dir = data_dir
        self.log_path = data_dir / f"{name}.log"
        self._start_timeout = start_timeout
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The command line; called at every start, when `data_dir` exists."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether the running program answers; called until true. Must not block for long."""

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def _hint(self) -> str:
        """How to fix a program that does not start, in one sentence."""
        return f"see the whole log in {self.log_path}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the running program.

        Raises:
            RuntimeError: it was never started, or was stopped.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> Self:
        """Starts the program and waits until it answers.

        Raises:
            LaunchError: it ended, or did not answer within its start timeout (it is then killed).
        """
        self.spawn()
        self.wait_ready()
        return self

    def spawn(self) -> None:
        """Starts the process and returns at once; `wait_ready` must follow. Several can start side by side this way."""
        if self.running:
            raise RuntimeError(f"{self.name} is already running")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *self._command()]
        with self.log_path.open("ab") as log:
            # A session of its own: Ctrl-C in a terminal reaches the launcher, which stops its programs in order.
            self._process = _spawner.submit(
                subprocess.Popen,
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()

    def wait_ready(self) -> None:
        """Waits until the spawned program answers.

        Raises:
            LaunchError: as for `start`.
        """
        try:
            self._wait_for(self._is_ready, self._start_timeout)
        except TimeoutError:
            self.kill()
            raise self._launch_error(f"did not answer within {self._start_timeout:g} s") from None

    def kill(self) -> None:
        """SIGKILL to the program and its children, as a crash would; returns when it is gone. Idempotent."""
        self._end(signal.SIGKILL)

    def stop(self) -> int | None:
        """SIGTERM, then SIGKILL after the grace period; returns when it is gone. Idempotent.

        Returns:
            Its exit status, negative for a signal that ended it; None where there was nothing to stop.
        """
        return self._end(signal.SIGTERM)

    def restart(self) -> Self:
        """`stop` where still running, then `start`: same port, same data."""
        self.stop()
        return self.start()

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The last lines of the log file, "" before the first start."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def _end(self, how: signal.Signals) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            os.killpg(process.pid, how)
            try:
                process.wait(timeout=self._grace)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left in its group
        return process.returncode

    def _wait_for(self, condition: Callable[[], bool], timeout: float) -> None:
        """Raises TimeoutError, or LaunchError where the program ends meanwhile."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        deadline = monotonic() + timeout
        while not condition():
            try:
                # Foreign programs have no common way to call back; this waits for an early end and is the pause too.
                code = self._process.wait(timeout=0.02)
            except subprocess.TimeoutExpired:
                if monotonic() > deadline:
                    raise TimeoutError from None
            else:
                self._process = None
                raise self._launch_error(f"ended with status {code}")

    def _launch_error(self, what: str) -> LaunchError:
        tail = self.log_tail() or "(its log is empty)"
        return LaunchError(f"{self.name} {what}; {self._hint()}. Its last log lines:\n{tail}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
