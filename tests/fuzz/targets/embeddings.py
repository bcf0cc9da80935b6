"""Embeddings, from cameras in every form and on the wire: what is accepted is finite, of norm 1 and of one length."""

from __future__ import annotations

import json

import numpy as np
from poi.v1 import common_pb2

from ingest_svc import vectors
from ingest_svc.rejections import Problem, Refused
from mesh import embeddings
from mesh.errors import FailedPrecondition, InvalidArgument
from tests.fuzz.json_mutator import JsonMutator
from tests.fuzz.target import Finding, Target
from tests.fuzz.targets.camera import BASE64, VECTOR

_DIMENSION = embeddings.DIMENSIONS[embeddings.FACE_MODEL]


def _from_camera(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        raw = vectors.raw_bytes(value, "field", _DIMENSION)
    except Refused:
        return
    if len(raw) != 4 * _DIMENSION:
        raise Finding(f"{len(raw)} bytes")
    (checked,) = vectors.normalise([raw], ["field"], _DIMENSION)
    if not isinstance(checked, Problem):
        embeddings.decode(common_pb2.Embedding(model=embeddings.FACE_MODEL, vector=checked))


def _on_the_wire(data: bytes) -> None:
    message = common_pb2.Embedding(model=embeddings.FACE_MODEL, vector=data)
    try:
        vector = embeddings.decode(message)
    except (InvalidArgument, FailedPrecondition):
        accepted = False
    else:
        accepted = True
        if vector.shape != (_DIMENSION,) or abs(float(np.linalg.norm(vector.astype(np.float64))) - 1) > 0.011:
            raise Finding(f"accepted: {vector.shape}, norm {np.linalg.norm(vector)}")
    rows, bad = embeddings.decode_batch([message, message], model=embeddings.FACE_MODEL, dimension=_DIMENSION)
    if (0 in bad, 1 in bad) != (not accepted, not accepted) or not np.isfinite(rows).all():
        raise Finding("a batch is not read as one embedding is")


def make() -> Target:
    """Each input as JSON of a camera, and as the bytes of a message."""

    def test(data: bytes) -> None:
        _from_camera(data)
        _on_the_wire(data)

    numbers = [round(float(value), 4) for value in VECTOR]
    values = [BASE64, numbers, [numbers], json.dumps(numbers), json.dumps(json.dumps([numbers]))]
    seeds = [*(json.dumps(value).encode() for value in values), VECTOR.tobytes(), b"\0" * 1024, b"\xff" * 1024]
    return Target(test, seeds, JsonMutator(("x",), values))
