"""The smallest thing that starts like a service, with its misbehaviour chosen by environment."""

import json
import os
import signal
import socketserver
import subprocess
import sys
from pathlib import Path


class Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(os.environ.get("POI_TINY_ANSWER", "hello").encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    if complaint := os.environ.get("POI_TINY_COMPLAINT"):
        print(complaint, file=sys.stderr)
        sys.exit(2)
    if os.environ.get("POI_TINY_DEAF"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    host, _, port = os.environ["POI_TINY_LISTEN"].rpartition(":")
    with Server((host, int(port)), Answer) as server:
        child = subprocess.Popen(["sleep", "300"]) if os.environ.get("POI_TINY_CHILD") else None
        print(f"child {child.pid if child else None}", flush=True)
        listen = "{}:{}".format(*server.server_address)
        ready = Path(os.environ["POI_TINY_READY_FILE"])
        ready.with_suffix(".part").write_text(json.dumps({"listen": listen, "metrics": "", "pid": os.getpid()}))
        ready.with_suffix(".part").rename(ready)
        server.serve_forever()


if __name__ == "__main__":
    main()
