"""Embeddings as camera pipelines send them, to the normalised float32 bytes that the contracts want."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from ingest_svc.rejections import Problem, Refused

_NORMALISED_WITHIN = 1e-3  # vectors this near to norm 1 are passed on byte for byte
_LEAST_SQUARE, _MOST_SQUARE = (1 - _NORMALISED_WITHIN) ** 2, (1 + _NORMALISED_WITHIN) ** 2
_SMALLEST_NORM = 1e-6


def raw_bytes(value: object, field: str, dimension: int) -> bytes:
    """Little-endian float32 bytes of base64, a list, a nested list or a JSON string of a list. Raises `Refused`.

    Only the length is checked here: `normalise` checks the values of all vectors of a message at once.
    """
    if isinstance(value, str):
        if value[:1] == "[" or value[:2] == '"[':
            return raw_bytes(_json_list(value, field), field, dimension)
        try:
            data = binascii.a2b_base64(value, strict_mode=True)
        except (binascii.Error, ValueError):
            raise Refused("BAD_EMBEDDING", field, "neither base64 nor a list") from None
        if len(data) != 4 * dimension:
            raise Refused("WRONG_DIMENSION", field, f"{len(data)} bytes, not {4 * dimension} ({dimension} float32)")
        return data
    if isinstance(value, list):
        while len(value) == 1 and isinstance(value[0], list):
            value = value[0]
        if len(value) != dimension:
            raise Refused("WRONG_DIMENSION", field, f"{len(value)} values, not {dimension}")
        if not all(type(item) in (float, int) for item in value):
            # orjson reads NaN and Infinity as errors; a null is what some writers make of them
            reason = "NOT_FINITE" if any(item is None for item in value) else "BAD_EMBEDDING"
            raise Refused(reason, field, "must hold numbers only")
        try:
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, which `normalise` refuses
                return np.asarray(value, dtype="<f8").astype("<f4").tobytes()
        except OverflowError:  # a whole number beyond any float
            raise Refused("NOT_FINITE", field, "holds NaN or infinite values") from None
    raise Refused("BAD_EMBEDDING", field, "neither base64 nor a list")


def normalise(vectors: Sequence[bytes], fields: Sequence[str], dimension: int) -> list[bytes | Problem]:
    """Each vector with norm 1, as bytes, or what is wrong with it. One pass over all vectors of a message."""
    if not vectors:
        return []
    matrix = np.frombuffer(b"".join(vectors), dtype="<f4").reshape(-1, dimension)
    with np.errstate(all="ignore"):
        squares: list[float] = np.vecdot(matrix, matrix).tolist()
        if all(_LEAST_SQUARE <= square <= _MOST_SQUARE for square in squares):
            return list(vectors)  # nearly every pipeline's, at half the cost
        norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    result: list[bytes | Problem] = []
    for row, norm in enumerate(norms.tolist()):
        if abs(norm - 1.0) <= _NORMALISED_WITHIN:
            result.append(vectors[row])
        elif norm != norm or norm == float("inf"):
            result.append(Problem("NOT_FINITE", fields[row], "holds NaN or infinite values"))
        elif norm < _SMALLEST_NORM:
            result.append(Problem("ZERO_EMBEDDING", fields[row], "has no direction: its norm is zero"))
        else:
            # In float64: the norm of finite values may itself be too large for float32.
            result.append((matrix[row].astype("<f8") / norm).astype("<f4").tobytes())
    return result


def _json_list(text: str, field: str) -> Any:
    try:
        content = orjson.loads(text)
        return orjson.loads(content) if isinstance(content, str) else content
    except orjson.JSONDecodeError:
        reason = "NOT_FINITE" if "nan" in text.lower() or "inf" in text.lower() else "BAD_EMBEDDING"
        raise Refused(reason, field, "is a string that is not a JSON list of finite numbers") from None
