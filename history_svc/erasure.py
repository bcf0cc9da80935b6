"""What is said of an erasure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Receipt:
    """An erasure. `id` has 32 hex digits, times are ns since 1970, `done_ns` is 0 while it goes on."""

    id: str
    request_id: str
    begun_ns: int
    done_ns: int
    appearances: int
    detections: int
    faces: int
    frames: int
