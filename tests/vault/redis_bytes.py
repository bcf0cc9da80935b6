"""Every byte that a Redis keeps, as a thief would read it."""

from __future__ import annotations

from typing import Any

import redis


def everything(url: str) -> bytes:
    """Keys, fields and values of all types that are used."""
    with redis.Redis.from_url(url) as client:
        return b"\n".join(part for key in sorted(client.keys("*")) for part in (key, *parts(client, key)))


def parts(client: Any, key: bytes) -> list[bytes]:
    """What a key holds."""
    kind = client.type(key)
    if kind == b"hash":
        return [part for pair in client.hgetall(key).items() for part in pair]
    if kind == b"stream":
        return [part for _, fields in client.xrange(key) for pair in fields.items() for part in pair]
    if kind == b"string":
        return [client.get(key) or b""]
    if kind == b"set":
        return list(client.smembers(key))
    if kind == b"zset":
        return list(client.zrange(key, 0, -1))
    raise AssertionError(f"{key!r} is a {kind!r}")
