"""Why messages, or parts of them, are refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a message."""

    reason: str
    """A constant, for example BAD_JSON."""
    field: str
    """The part that is wrong, as a path; empty for the whole message."""
    message: str
    """What is wrong, in words. Never holds an embedding or an image."""


class Refused(Exception):
    """The whole message cannot be used."""

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(reason, field, message)
