"""Recorded traffic: JSON lines of `{"t_ms": ..., "topic": ..., "payload": {...}}`, plain or gzipped."""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import orjson
from pydantic import BaseModel, FiniteFloat, ValidationError

from clients.replay.traffic import Message, epoch_ms, iso

_ISO_8601 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")
_LONGEST_TIMESTAMP = 40  # a look at the length spares the pattern a walk over embeddings
_CAMERA_TOPIC = "scenescape/data/camera/"


class Line(BaseModel):
    """One line of a recording."""

    t_ms: FiniteFloat
    topic: str
    payload: dict[str, Any]


class Recording:
    """A recording, replayed as it was or moved to another time.

    Args:
        lines: in order of `t_ms`.
        shift: True moves every time in the payloads (also nested ones such as `first_seen` and `entered`) by the same
            amount, so that `t_ms` 0 becomes the start of the replay; False plays the payloads as they were recorded.
    """

    def __init__(self, lines: Sequence[Line], *, shift: bool = True) -> None:
        self.lines = lines
        self._shift = shift
        self._start_ms = _start_of(lines) if lines else 0

    @classmethod
    def load(cls, path: Path, *, shift: bool = True) -> Self:
        """Reads a recording.

        Raises:
            OSError: the file cannot be read.
            ValueError: a line is not as described above, or has no time in its payload; says which line. Or the file is
                compressed and damaged.
        """
        lines = []
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                for number, text in enumerate(file, 1):
                    lines.append(_read(text, f"{path}, line {number}"))
        except (EOFError, zlib.error) as error:  # of a copy that was cut off
            raise ValueError(f"{path} is damaged: {error}") from error
        return cls(lines, shift=shift)

    @property
    def duration_ms(self) -> float:
        return self.lines[-1].t_ms if self.lines else 0.0

    def messages(self, start_ms: int) -> Iterator[Message]:
        offset_ms = start_ms - self._start_ms if self._shift else 0
        for line in self.lines:
            payload = _shifted(line.payload, offset_ms) if offset_ms else line.payload
            camera = line.topic.removeprefix(_CAMERA_TOPIC) if line.topic.startswith(_CAMERA_TOPIC) else ""
            yield Message(line.t_ms, line.topic, orjson.dumps(payload), camera, _payload_ms(line) + offset_ms)


def _read(text: bytes, where: str) -> Line:
    try:
        line = Line.model_validate_json(text)
        _payload_ms(line)
    except (ValidationError, ValueError, OverflowError) as error:
        raise ValueError(f"{where} is not a recorded message: {error}") from error
    return line


def _start_of(lines: Sequence[Line]) -> int:
    return _payload_ms(lines[0]) - round(lines[0].t_ms)


def _payload_ms(line: Line) -> int:
    timestamp = line.payload.get("timestamp")
    if isinstance(timestamp, str):
        return epoch_ms(timestamp)
    if isinstance(timestamp, (int, float)):
        return round(timestamp * 1000)
    raise ValueError("its payload has no timestamp")


def _shifted(value: Any, offset_ms: int, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _shifted(item, offset_ms, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_shifted(item, offset_ms) for item in value]
    if isinstance(value, str) and len(value) <= _LONGEST_TIMESTAMP and _ISO_8601.fullmatch(value):
        return iso(epoch_ms(value) + offset_ms)
    if key == "timestamp" and isinstance(value, (int, float)):
        return value + offset_ms / 1000
    return value
