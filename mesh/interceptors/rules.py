"""The rules that the contract has for a field (`buf.validate.field`)."""

from __future__ import annotations

from typing import Any

from buf.validate import validate_pb2


def rules_of(field: Any) -> Any | None:
    """The rules of a FieldDescriptor; None where there are none."""
    for option, rules in field.GetOptions().ListFields():
        if option.full_name == "buf.validate.field":
            return rules
    return None


def is_ignored(field: Any) -> bool:
    """Whether nothing in the field is checked here: its handler does it, and answers the one item that is wrong."""
    rules = rules_of(field)
    return rules is not None and rules.ignore == validate_pb2.IGNORE_ALWAYS
