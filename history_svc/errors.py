"""What the disk says, in terms of the contract."""

from __future__ import annotations

import errno
from typing import Final

from mesh.errors import MeshError, ResourceExhausted, Unavailable

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def refused(error: OSError) -> MeshError:
    """Why nothing of what was asked for was stored."""
    if error.errno in _FULL:
        return ResourceExhausted("the disk is full: nothing of it is stored", reason="DISK_FULL", retry_after=1.0)
    return Unavailable("the disk did not take it", reason="DISK_FAILED", retry_after=1.0)
