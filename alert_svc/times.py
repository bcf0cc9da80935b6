"""Moments as the keys of Redis have them."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp


def now() -> Timestamp:
    """The time of this server, in whole microseconds as the indexes have it."""
    return stamp(time.time_ns())


def stamp(nanoseconds: int) -> Timestamp:
    """The contract's form of a moment (ns since the epoch), in whole microseconds as the indexes have it."""
    time_stamp = Timestamp()
    time_stamp.FromMicroseconds(nanoseconds // 1000)
    return time_stamp


def ns(time_stamp: Timestamp) -> int:
    """Nanoseconds since the epoch, of whatever a client sent."""
    return time_stamp.seconds * 10**9 + time_stamp.nanos


def time_key(nanoseconds: int) -> str:
    """16 hex digits that sort like times: the first microsecond that is not before."""
    return f"{max(0, -(-nanoseconds // 1000)):016x}"
