"""Which segments cannot be read, when something cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from history_svc.sealed.faces import SealedFaces


class Unreadable(Exception):
    """Reading these segments went wrong: at least one of them may be damaged."""

    def __init__(self, segments: Sequence[SealedFaces], cause: Exception) -> None:
        super().__init__(cause)
        self.segments, self.cause = segments, cause


@contextmanager
def reading(*segments: SealedFaces, in_memory: bool = False) -> Iterator[None]:
    """Raises Unreadable for whatever goes wrong in here, and before a file that was cut short is read.

    The latter takes some microseconds a segment: not where what is read may be in memory alone.
    """
    try:
        for one in () if in_memory else segments:
            one.check_sizes()
        yield
    except Unreadable:
        raise
    except Exception as error:  # whatever numpy, pyarrow or faiss make of damaged files
        raise Unreadable(segments, error) from error
