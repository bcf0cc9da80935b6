"""Times that are none: what protovalidate lets pass, and every conversion raises an error for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mesh.interceptors.rules import is_ignored, rules_of

_NS: Final = 1_000_000_000
_TIMES: Final = ("timestamp", "duration")


class Times:
    """Checks the nanoseconds of the timestamps and durations that the contract constrains; it leaves others alone.

    A type without any costs a dictionary look-up.
    """

    def __init__(self) -> None:
        self._fields: dict[str, list[Any]] = {}

    def wrong(self, message: Any, path: str = "") -> Iterator[tuple[str, str]]:
        """(field, what is wrong with it) of each in `message`, at any depth but in maps."""
        kind = message.DESCRIPTOR
        fields = self._fields.get(kind.full_name)
        if fields is None:
            fields = self._fields[kind.full_name] = [field for field in kind.fields if _leads(field, set())]
        for field in fields:
            where = f"{path}{field.name}"
            if field.is_repeated:
                for index, one in enumerate(getattr(message, field.name)):
                    yield from self._wrong_of(field, one, f"{where}[{index}]")
            elif message.HasField(field.name):
                yield from self._wrong_of(field, getattr(message, field.name), where)

    def _wrong_of(self, field: Any, value: Any, where: str) -> Iterator[tuple[str, str]]:
        kind = _constrained(field)
        if kind is None:
            yield from self.wrong(value, f"{where}.")
        elif kind == "timestamp" and not 0 <= value.nanos < _NS:
            yield where, "must have nanos from 0 to 999999999"
        elif kind == "duration" and not (abs(value.nanos) < _NS and value.seconds * value.nanos >= 0):
            yield where, "must have nanos below a second, with the sign of its seconds"


def _leads(field: Any, seen: set[str]) -> bool:
    """Whether the field is a time that is constrained, or has one inside."""
    kind = field.message_type
    if kind is None or kind.GetOptions().map_entry or is_ignored(field):
        return False
    if _constrained(field) is not None:
        return True
    if kind.full_name in seen:
        return False
    seen.add(kind.full_name)
    return any(_leads(inner, seen) for inner in kind.fields)


def _constrained(field: Any) -> str | None:
    """As what kind of time the contract constrains a field; None for none."""
    rules = rules_of(field)
    kind = rules.WhichOneof("type") if rules is not None else None
    return kind if kind in _TIMES else None
