"""Mutates protobuf messages field by field, with the edges of each type and what the service itself has said before."""

from __future__ import annotations

import base64
import json
import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import atheris
from google.protobuf.message import Message

from mesh import pages

_INTEGERS = (0, 1, -1, 2, 50, 1000, 1001, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.2, 0.5, 0.99, 1e-9, 1e-45, 1e30, 3.4e38, float("nan"), float("inf"), float("-inf"))
_SECONDS = (0, 1, -1, 1763629200, 2**31, -62135596800, -62135596801, 253402300799, 253402300800, 2**62, -(2**63))
_NANOS = (0, 1, 999_999_999, 1_000_000_000, -1, 2**31 - 1)
_TEXTS = (
    *(
        "",
        "x",
        " ",
        "*",
        "-",
        "0",
        "00" * 16,
        "0" * 32,
        "f" * 32,
        "é",
        "\x00",
        "\U0001f600",
        "a\nb",
        "x" * 129,
        "y" * 5000,
    ),
    *("name", "display_name,severity", "..", "display_name", "expire_time", "0-0", "1-1", "18446744073709551616-1"),
    *("http://127.0.0.1:1/", "https://example.com/", "http://[::1]/", "whsec_AAAA", "mqtt", "2026-11-20", "%s", "{}"),
)
_STATES: tuple[Any, ...] = (
    *([], None, 1, {}, {"before": "x"}, {"before": -1}, {"before": 2**70}, {"after": 5}, {"after": [1]}),
    *({"start_ns": "x", "id": "zz"}, {"start_ns": 1}, {"before": 1, "at": "x", "id": "00"}, {"enter": 1e30, "id": 1}),
    *({"before": 1, "at": 0.5, "id": 7}, {"start_ns": 2**70, "id": "00"}, {"enter": "1", "id": "\ud7ff"}),
)
"""What a client may forge into a page token."""
_STEPS = (-86400, -3600, -60, -11, -3, -1, 0, 1, 3, 11, 60)
"""Seconds from a time that is sound to another."""
_SAID = 50


class MessageMutator:
    """Strings and bytes that are worth a try are in `texts` and `contents`; what a service answers is added."""

    def __init__(self, texts: Iterable[str], contents: Iterable[bytes]) -> None:
        self._texts, self._contents = list(texts), list(contents)
        self._said: dict[str, deque[str]] = {}
        self._usual: dict[str, list[str]] = {}

    def learn(self, message: Message) -> None:
        """What stands in the fields of a sound request is worth a try in others, too."""
        for descriptor, value in message.ListFields():
            for one in value if descriptor.is_repeated else (value,):
                if isinstance(one, str):
                    self._usual.setdefault(descriptor.full_name, []).append(one)
                elif isinstance(one, Message):
                    self.learn(one)

    def hear(self, answer: Message) -> None:
        """Names, cursors and page tokens in an answer lead on."""
        for descriptor, value in answer.ListFields():
            for one in value if descriptor.is_repeated else (value,):
                if isinstance(one, str):
                    self._said.setdefault(_shape(one), deque(maxlen=_SAID)).append(one)
                elif isinstance(one, Message):
                    self.hear(one)

    def mutate(self, message: Message, rng: random.Random) -> None:
        """Changes one thing in the message."""
        fields = message.DESCRIPTOR.fields
        if not fields:
            return
        if message.DESCRIPTOR.full_name == "google.protobuf.Timestamp" and rng.random() < 0.7:
            if rng.random() < 0.5:
                message.seconds, message.nanos = rng.choice(_SECONDS), rng.choice(_NANOS)  # type: ignore[attr-defined]
            else:
                seconds = message.seconds + rng.choice(_STEPS)  # type: ignore[attr-defined]
                message.seconds = max(-(2**63), min(2**63 - 1, seconds))  # type: ignore[attr-defined]
            return
        descriptor: Any = rng.choice(list(fields))
        if descriptor.name == "page_token" and rng.random() < 0.7:  # few are taken, and then there is a page less
            descriptor = rng.choice(list(fields))
        if descriptor.name == "page_token" and rng.random() < 0.5:
            message.page_token = _forged(message, rng)  # type: ignore[attr-defined]
        elif rng.random() < 0.1:
            message.ClearField(descriptor.name)
        elif descriptor.is_repeated:
            self._repeated(message, descriptor, rng)
        elif descriptor.message_type is not None:
            inner = getattr(message, descriptor.name)
            inner.SetInParent()
            self.mutate(inner, rng)
        else:
            setattr(message, descriptor.name, self._value(descriptor, getattr(message, descriptor.name), rng))

    def _repeated(self, message: Message, descriptor: Any, rng: random.Random) -> None:
        values = getattr(message, descriptor.name)
        if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            values.clear()
            return
        what = rng.randrange(6)
        if values and what == 0:
            del values[rng.randrange(len(values))]
        elif values and what == 1:
            again = [values[rng.randrange(len(values))]] * rng.choice((1, 1, 2, 70, 300))
            values.extend(again[: max(0, 600 - len(values))])
        elif descriptor.message_type is not None:
            self.mutate(values[rng.randrange(len(values))] if values and what > 2 else values.add(), rng)
        elif values and what > 2:
            place = rng.randrange(len(values))
            values[place] = self._value(descriptor, values[place], rng)
        else:
            values.append(self._value(descriptor, _nothing(descriptor), rng))

    def _value(self, descriptor: Any, value: Any, rng: random.Random) -> Any:
        if descriptor.enum_type is not None:
            return rng.choice([*(each.number for each in descriptor.enum_type.values), 99, -1])
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            low, high = _RANGES[descriptor.type]
            return max(low, min(high, rng.choice((*_INTEGERS, value + 1, rng.randrange(1 << 20)))))
        if isinstance(value, float):
            return rng.choice((*_FLOATS, rng.random()))
        if isinstance(value, str):
            if descriptor.name.endswith("detection_id") and rng.random() < 0.5:
                return rng.randbytes(16).hex()
            usual = self._usual.get(descriptor.full_name, ())
            kind = rng.random()
            if usual and kind < 0.3:
                return rng.choice(usual)
            said = self._said.get(_shape(value or rng.choice(usual or ("",))))
            return rng.choice(said) if said and kind < 0.65 else self._text(value, rng)
        if value and rng.random() < 0.5:
            return atheris.Mutate(value, 2 * len(value) + 16)
        return rng.choice((b"", b"x", *self._contents))

    def _text(self, value: str, rng: random.Random) -> str:
        kind = rng.random()
        if kind < 0.35:
            return rng.choice(self._texts)
        if kind < 0.6 and self._said:
            return rng.choice(self._said[rng.choice(list(self._said))])
        if kind < 0.8 or not value:
            return rng.choice(_TEXTS)
        mutated: bytes = atheris.Mutate(value.encode(), 2 * len(value) + 8)
        return mutated.decode(errors="ignore")


def _shape(text: str) -> str:
    """The collections of a resource name; of other texts nothing."""
    return "/".join(text.split("/")[::2]) if text.startswith("stores/") else ""


def _forged(request: Message, rng: random.Random) -> str:
    """A page token that fits the request and says what no server said."""
    payload = json.dumps(rng.choice(_STATES)).encode() if rng.random() < 0.9 else b"{"
    return base64.urlsafe_b64encode(pages._digest(payload, request) + payload).decode()


def _nothing(descriptor: Any) -> Any:
    """The empty value of an element's type."""
    return {9: "", 12: b"", 8: False, 1: 0.0, 2: 0.0}.get(descriptor.type, 0)


def _ranges() -> dict[int, tuple[int, int]]:
    small, large = (-(2**31), 2**31 - 1), (-(2**63), 2**63 - 1)
    signed = {5: small, 15: small, 17: small, 3: large, 16: large, 18: large}
    return {**signed, 13: (0, 2**32 - 1), 7: (0, 2**32 - 1), 4: (0, 2**64 - 1), 6: (0, 2**64 - 1)}


_RANGES = _ranges()
"""Of integers by their type (`FieldDescriptor.TYPE_*`)."""

Parts = tuple[int, list[bytes]]


def pack(method: int, messages: Sequence[bytes]) -> bytes:
    """An input: the method's number, then each message after its length in four bytes."""
    return bytes([method]) + b"".join(len(one).to_bytes(4, "big") + one for one in messages)


def unpack(data: bytes) -> Parts:
    """The inverse; of bytes that are cut off, as far as they go."""
    messages: list[bytes] = []
    at = 1
    while at + 4 <= len(data) and len(messages) < 8:
        size = int.from_bytes(data[at : at + 4], "big")
        messages.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return (data[0] if data else 0), messages
