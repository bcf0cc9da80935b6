"""Mutates JSON as JSON: values of other types, edges of numbers, odd strings, repeats, depth; sometimes its bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import atheris

NUMBERS: Sequence[Any] = (
    *(0, 1, -1, 2, 127, 128, 129, 255, 256, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.5, -0.0, 1e-320, 1e-7, 1e6, 1e6 + 1, 1e11, 1e12, 253402300799.999, 253402300800, 1e308),
    *(float("nan"), float("inf"), float("-inf"), 1763629200.25, 1763629200250),
)
STRINGS: Sequence[str] = (
    *("", " ", "1", "-1", "1e999", "nan", "Infinity", "[", "[[]]", '"[', "null", "\x00", "\ud800", "\U0001f600", "é"),
    *("x" * 127, "x" * 128, "x" * 129, "~" * 128, "id with space", "a/b", "stores/s1/cameras/c1", "../..", "+", "#"),
    *("person", "face", "AAAA", "=", "A" * 1368, "A" * 1367 + "="),
    *("2026-11-20T09:00:00.250Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59", "2026-W01", "2026"),
    *("0001-01-01", "9999-12-31T23:59:59.9999999Z", "1970-01-01T00:00:00Z", "2026-11-20T24:00:00Z"),
)
_BOTTOMLESS = "as deep as can be"
_DEEP = f'"{_BOTTOMLESS}"'
"""As it stands in JSON."""
_MOST_REPEATED = 1 << 16
"""Characters that one mutation adds by repeating: repeats of repeats would fill the memory."""


class JsonMutator:
    """`keys` and `values` are those that the reader knows. An input may begin with `head` bytes that are no JSON."""

    def __init__(self, keys: Sequence[str], values: Sequence[Any] = (), head: int = 0) -> None:
        self._keys, self._values, self._head = keys, values, head

    def __call__(self, data: bytes, largest: int, seed: int) -> bytes:
        """Another input of at most `largest` bytes."""
        rng = random.Random(seed)
        head, body = data[: self._head].ljust(self._head, b"\0"), data[self._head :]
        if self._head and rng.random() < 0.1:
            head = rng.randbytes(self._head)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            content = None
        if content is None or rng.random() < 0.15:
            mutated: bytes = atheris.Mutate(data, largest)
            return mutated
        try:
            for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
                content = self._mutated(content, rng)
            text = json.dumps(content, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
        except (RecursionError, ValueError):
            return data
        depth = rng.choice((2, 10, 300, 900, 1000, 1020, 1024))  # deeper than json.dumps goes, and all that is read
        return (head + text.replace(_DEEP.encode(), b"[" * depth + b"]" * depth))[:largest]

    def _mutated(self, value: Any, rng: random.Random) -> Any:
        inside = isinstance(value, dict | list) and value and rng.random() < 0.85
        if inside and isinstance(value, dict):
            key = rng.choice(list(value))
            match rng.randrange(8):
                case 0:
                    del value[key]
                case 1:
                    value[self._key(rng)] = self._value(rng)
                case 2:
                    value[self._key(rng)] = _again(json.dumps(value[key]))
                case _:
                    value[key] = self._mutated(value[key], rng)
            return value
        if inside and isinstance(value, list):
            place = rng.randrange(len(value))
            match rng.randrange(10):
                case 0:
                    del value[place]
                case 1:
                    value.insert(place, self._value(rng))
                case 2:
                    text = json.dumps(value[place])
                    times = min(rng.choice((1, 2, 4, 16, 600)), _MOST_REPEATED // len(text))
                    value.extend(_again(text) for _ in range(times))
                    del value[700:]
                case _:
                    value[place] = self._mutated(value[place], rng)
            return value
        if isinstance(value, str) and value and rng.random() < 0.5:
            return atheris.Mutate(value.encode(errors="surrogatepass"), 2 * len(value) + 8).decode(errors="ignore")
        match rng.randrange(12):
            case 0:
                return [value]
            case 1:
                return {self._key(rng): value}
            case 2:
                return json.dumps(value)
            case 3:
                return _BOTTOMLESS
            case _:
                return self._value(rng)

    def _key(self, rng: random.Random) -> str:
        return rng.choice(self._keys if rng.random() < 0.9 else STRINGS)

    def _value(self, rng: random.Random) -> Any:
        kind = rng.randrange(6)
        if kind == 0 and self._values:
            return _again(json.dumps(rng.choice(self._values)))
        if kind == 1:
            return rng.choice(STRINGS)
        if kind == 2:
            return rng.choice((None, True, False, [], {}))
        if kind == 3:
            return [self._value(rng) for _ in range(rng.randrange(5))]
        if kind == 4:
            return {self._key(rng): self._value(rng) for _ in range(rng.randrange(4))}
        return rng.choice(NUMBERS)


def _again(text: str) -> Any:
    """A value of its own: one that stood in several places would be changed, and grow, in all of them at once."""
    return json.loads(text)
