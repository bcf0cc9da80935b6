"""Run as a script: asks Linux to kill this process when its parent dies, then becomes the program given.

    python _leash.py PARENT_PID COMMAND [ARGUMENT ...]

A step of its own between fork and exec instead of `preexec_fn`, which may deadlock in a parent with threads. The wish
survives exec. Elsewhere than on Linux there is no such call, and the program simply runs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the wish was made
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
