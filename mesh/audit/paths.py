"""Fields of messages by their path (`poi.name`)."""

from __future__ import annotations

from typing import Any

from mesh.audit.actor import MOST_TEXT


def value_at(message: Any, path: str) -> Any:
    """The field at a path; None where there is no such field, or a part of it is not set."""
    for part in path.split(".") if path else ():
        if message is None or part not in message.DESCRIPTOR.fields_by_name:
            return None
        field = message.DESCRIPTOR.fields_by_name[part]
        message = None if field.has_presence and not message.HasField(part) else getattr(message, part)
    return message if path else None


def text_at(message: Any, path: str) -> str:
    """The text at a path; empty where there is none."""
    value = value_at(message, path)
    return value[:MOST_TEXT] if isinstance(value, str) else ""
