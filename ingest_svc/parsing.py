"""Small parts that camera and scene messages share: JSON, time, ids, boxes. All raise `Refused`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from ingest_svc.rejections import Refused

_EPOCH_MS_FROM = 1e11  # as seconds that is the year 5138: a number this large is milliseconds


def load_object(payload: bytes) -> dict[str, Any]:
    """The JSON object that the payload is."""
    try:
        content = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise Refused("BAD_JSON", "", f"not JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise Refused("BAD_JSON", "", "not a JSON object")
    return content


def time_ms(value: object, field: str) -> int:
    """Milliseconds since the epoch of an ISO 8601 string (UTC when it says nothing else) or of epoch seconds."""
    if value is None or value == "":
        raise Refused("NO_TIMESTAMP", field, "there is no timestamp")
    seconds: float
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            return round(moment.timestamp() * 1000)
        except (ValueError, OverflowError):
            try:
                seconds = float(value)
            except ValueError:
                raise Refused("BAD_TIMESTAMP", field, f"neither ISO 8601 nor epoch seconds: {value[:40]!r}") from None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise Refused("BAD_TIMESTAMP", field, "neither a string nor a number")
    if seconds >= _EPOCH_MS_FROM:
        seconds /= 1000
    if not math.isfinite(seconds) or not 0 < seconds < _EPOCH_MS_FROM:
        raise Refused("BAD_TIMESTAMP", field, "not a time")
    return round(seconds * 1000)


def identifier(value: object, field: str) -> str:
    """An object id: a number or a string of at most 128 characters, as a string."""
    if isinstance(value, str):
        if 0 < len(value) <= 128 and value.isprintable():
            return value
    elif isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    elif isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise Refused("BAD_ID", field, "an id must be a whole number or 1 to 128 printable characters")


def confidence(value: object) -> float:
    """A detector's confidence, 0 to 1; 0 when there is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return min(max(float(value), 0.0), 1.0)
    return 0.0


def box(value: object, field: str) -> tuple[float, float, float, float] | None:
    """x, y, width, height in pixels of `[x, y, w, h]` or of an object with those keys; None when there is none."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        parts = [
            value.get("x"),
            value.get("y"),
            value.get("width", value.get("w")),
            value.get("height", value.get("h")),
        ]
    elif isinstance(value, list) and len(value) == 4:
        parts = value
    else:
        raise Refused("BAD_BOX", field, "must be [x, y, width, height] or an object with those keys")
    numbers: list[float] = []
    for part in parts:
        if not isinstance(part, int | float) or isinstance(part, bool) or not math.isfinite(part) or abs(part) > 1e6:
            raise Refused("BAD_BOX", field, "must hold four finite numbers")
        numbers.append(float(part))
    if numbers[2] <= 0 or numbers[3] <= 0:
        raise Refused("BAD_BOX", field, "width and height must be more than zero")
    return numbers[0], numbers[1], numbers[2], numbers[3]
