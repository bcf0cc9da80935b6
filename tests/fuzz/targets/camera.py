"""Messages of cameras: whatever they hold, what ingest makes of them is what history takes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson

from mesh.embeddings import FACE_MODEL
from tests.fuzz.json_mutator import JsonMutator
from tests.fuzz.street import IDS, Street
from tests.fuzz.target import Target
from tests.support.vectors import unit

KEYS = (
    *("timestamp", "objects", "person", "face", "id", "category", "type", "confidence", "bounding_box_px"),
    *("x", "y", "width", "height", "w", "h", "sub_objects", "metadata", "reid", "embedding_vector", "model_name"),
)
VECTOR = unit(1)
BASE64 = base64.b64encode(VECTOR.tobytes()).decode()
BOX = {"x": 1, "y": 2, "width": 30, "height": 40}
_LIST = [round(float(value), 3) for value in VECTOR]


def face(embedding: object = BASE64) -> dict[str, Any]:
    """As DL Streamer sends it."""
    reid = {"embedding_vector": embedding, "model_name": FACE_MODEL}
    return {"id": 1, "confidence": 0.9, "bounding_box_px": BOX, "metadata": {"reid": reid}}


def person(object_id: object = 7, *faces: object) -> dict[str, Any]:
    """With these faces."""
    return {"id": object_id, "confidence": 0.8, "bounding_box_px": BOX, "sub_objects": {"face": list(faces)}}


def _bad_vector(value: float) -> str:
    return base64.b64encode(np.full(256, value, "<f4").tobytes()).decode()


MESSAGES: tuple[dict[str, Any], ...] = (
    {"id": "c", "timestamp": "2026-11-20T09:00:00.250Z", "objects": {"person": [person(7, face())]}},
    {"timestamp": 1763629200.25, "objects": {"person": [person("a-b", face(_LIST))], "face": [face([_LIST])]}},
    {"timestamp": 1763629200250, "objects": {"person": [person(1, face(str(_LIST)), face()), person(1)]}},
    {"timestamp": "2026-11-20", "objects": [{**person(3), "category": "person"}, {**face(), "type": "face"}]},
    {"timestamp": "1763629200", "objects": {"face": [{"id": 1, "bounding_box_px": [1, 2, 3, 4], "reid": BASE64}]}},
    {"timestamp": 1, "objects": {"face": [face(_bad_vector(float("nan"))), face(_bad_vector(0)), face("AAAA")]}},
    {"timestamp": 1763629200},
)


def make() -> Target:
    """The first byte is the camera in the topic."""
    street = Street()

    def test(data: bytes) -> None:
        if data:
            street.take(street.topics.camera + IDS[data[0] % len(IDS)], data[1:])

    values = [face(), person(), BASE64, _LIST, str(_LIST), BOX, *(_bad_vector(v) for v in (0.0, 3e38, 1e-30, 0.0625))]
    return Target(
        test,
        seeds=[bytes([place % 4]) + orjson.dumps(message) for place, message in enumerate(MESSAGES)],
        mutate=JsonMutator(KEYS, values, head=1),
    )
