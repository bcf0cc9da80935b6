"""Small parts that camera and scene messages share: JSON, time, ids, boxes. All raise `Refused`."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import orjson

from ingest_svc.rejections import Refused

_NUMBERS = frozenset((float, int))  # and not their subclass bool
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999  # what a Timestamp can say: the years 1 to 9999
_EPOCH_MS_FROM = 1e11  # as seconds that is the year 5138: a number this large is milliseconds


def load_object(payload: bytes) -> dict[str, Any]:
    """The JSON object that the payload is, where it may hold NaN and Infinity."""
    try:
        content = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        content = _not_quite_json(payload)
        if content is None:
            raise Refused("BAD_JSON", "", f"not JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise Refused("BAD_JSON", "", "not a JSON object")
    return content


def _not_quite_json(payload: bytes) -> Any:
    """The content of JSON with bare NaN and Infinity, as Python's json writes it; None of anything else.

    It is no JSON, yet only the numbers are bad: whoever uses them refuses them, and the rest of the message is used.
    """
    if b"NaN" not in payload and b"Infinity" not in payload:
        return None
    try:
        return json.loads(payload, parse_int=_whole_number)
    except (ValueError, OverflowError, RecursionError):
        return None


def _whole_number(digits: str) -> int | float:
    """As orjson reads it: a float where 64 bits are too few."""
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else float(value)


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
        except ValueError:
            try:
                seconds = float(value)
            except ValueError:
                raise Refused("BAD_TIMESTAMP", field, f"neither ISO 8601 nor epoch seconds: {value[:40]!r}") from None
        else:
            time = round(moment.timestamp() * 1000)
            # An hour from UTC, or half a millisecond, and it is in the year 0 or 10000.
            if not _FIRST_MS <= time <= _LAST_MS:
                raise Refused("BAD_TIMESTAMP", field, "not a time")
            return time
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
    elif isinstance(value, float) and value.is_integer() and abs(value) < 1e30:
        return str(int(value))
    raise Refused("BAD_ID", field, "an id must be a whole number or 1 to 128 printable characters")


def confidence(value: object) -> float:
    """A detector's confidence, 0 to 1; 0 when there is none."""
    if type(value) is float or type(value) is int:  # so `True` is none
        if 0.0 <= value <= 1.0:
            return value
        if math.isfinite(value):
            return 0.0 if value < 0 else 1.0
    return 0.0


def box(value: object, field: str) -> tuple[float, float, float, float] | None:
    """x, y, width, height in pixels of `[x, y, w, h]` or of an object with those keys; None when there is none."""
    if value is None:
        return None
    parts: tuple[Any, ...]
    if isinstance(value, dict):
        get = value.get
        parts = (get("x"), get("y"), get("width", get("w")), get("height", get("h")))
    elif isinstance(value, list) and len(value) == 4:
        parts = tuple(value)
    else:
        raise Refused("BAD_BOX", field, "must be [x, y, width, height] or an object with those keys")
    for part in parts:
        if type(part) not in _NUMBERS or not -1e6 <= part <= 1e6:  # which NaN is not either
            raise Refused("BAD_BOX", field, "must hold four finite numbers")
    x, y, width, height = parts
    if width <= 0 or height <= 0:
        raise Refused("BAD_BOX", field, "width and height must be more than zero")
    return x, y, width, height
