"""Lists that are too long, found by counting: to check each item of millions first takes minutes and gigabytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesh.interceptors.rules import is_ignored, rules_of


class Sizes:
    """Checks `max_items` and `max_pairs` of the contract, outermost lists first.

    A type without any costs a dictionary look-up.
    """

    def __init__(self) -> None:
        self._fields: dict[str, list[tuple[Any, int | None, bool]]] = {}

    def wrong(self, message: Any, path: str = "") -> Iterator[tuple[str, str]]:
        """(field, what is wrong with it) of each list in `message` that is too long, at any depth but in maps.

        What is inside of a list that is too long is not looked at.
        """
        for field, most, leads in self._limited(message.DESCRIPTOR):
            where = f"{path}{field.name}"
            if not field.is_repeated:
                if message.HasField(field.name):
                    yield from self.wrong(getattr(message, field.name), f"{where}.")
                continue
            items = getattr(message, field.name)
            if most is not None and len(items) > most:
                yield where, f"must contain no more than {most} item(s)"
            elif leads:
                for index, one in enumerate(items):
                    yield from self.wrong(one, f"{where}[{index}].")

    def _limited(self, kind: Any) -> list[tuple[Any, int | None, bool]]:
        """(field, most items if it is a list with a limit, whether its messages have such lists) of those that count.

        A type that holds itself is not looked into again.
        """
        known = self._fields.get(kind.full_name)
        if known is None:
            known = self._fields[kind.full_name] = []
            for field in kind.fields:
                if is_ignored(field):
                    continue
                inner = field.message_type
                is_map = inner is not None and inner.GetOptions().map_entry
                leads = inner is not None and not is_map and bool(self._limited(inner))
                most = _most(field)
                if leads or most is not None:
                    known.append((field, most, leads))
        return known


def _most(field: Any) -> int | None:
    """How many items the contract allows; None for any number."""
    rules = rules_of(field)
    if rules is None:
        return None
    kind = rules.WhichOneof("type")
    if kind == "repeated" and rules.repeated.HasField("max_items"):
        return int(rules.repeated.max_items)
    if kind == "map" and rules.map.HasField("max_pairs"):
        return int(rules.map.max_pairs)
    return None
