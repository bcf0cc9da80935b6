"""What a target gives to the worker that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Mutate = Callable[[bytes, int, int], bytes]
"""(input, most bytes, seed) -> another input."""


class Finding(AssertionError):
    """An invariant that does not hold."""


class LeftOut(Exception):
    """The target cannot run here; the text says why."""


@dataclass(frozen=True)
class Target:
    """One function that is fuzzed. It lives as long as its process."""

    test: Callable[[bytes], None]
    """Raises, whatever it is, when something is wrong with what was tested."""
    seeds: Iterable[bytes] = field(default=())
    mutate: Mutate | None = None
    """Knows the form of the inputs; None flips bytes."""
    remembers: bool = False
    """What came before matters, too: a finding is kept together with it."""
    largest: int = 1 << 16
    """Bytes of an input."""
