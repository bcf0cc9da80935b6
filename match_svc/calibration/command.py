"""`python -m match_svc calibrate FOLDER --out table.json`: a table from labelled photos of one's own."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import grpc
import numpy as np
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc

from match_svc.calibration import measure
from match_svc.calibration.curves import Calibration
from match_svc.calibration.table import ALIGNED, UNALIGNED, Pipeline, Table
from mesh import channels
from mesh.embeddings import FACE_MODEL, decode
from mesh.errors import MeshError, from_rpc
from mesh.settings import TlsFiles

_IMAGES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_ALIGNMENTS: Final = (common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_UNALIGNED, common_pb2.ALIGNMENT_MEAN)
_MIN_CONFIDENCE: Final = 0.9
"""As for enrolment: the face detector fires on backs of heads at 0.5 to 0.8."""
_AT_ONCE: Final = 4
_EMBED_SECONDS: Final = 30.0
_RATES: Final = (1e-3, 1e-4, 1e-5, 1e-6)
_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)

_SHUT: Final = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
)


class _Impossible(Exception):
    """There will be no table; the text says why."""


@dataclass(frozen=True, slots=True)
class _Photo:
    path: Path
    person: int


@dataclass(frozen=True, slots=True, eq=False)
class _Embedded:
    person: int
    vectors: tuple[measure.Floats, measure.Floats, measure.Floats]
    """Aligned, unaligned, mean."""


def calibrate(argv: Sequence[str], out: TextIO = sys.stdout) -> int:
    """Measure, write the table, say what it tells; the exit status."""
    asked = _arguments(argv)
    try:
        table = asyncio.run(_measured(asked, out))
        asked.out.write_text(f"{table.model_dump_json(indent=1)}\n", encoding="utf-8")
    except OSError as error:
        print(f"calibrate: {error.filename or asked.out}: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        return 1
    except _Impossible as error:
        print(f"calibrate: {error}", file=sys.stderr)  # noqa: T201
        return 1
    out.write(_summary(table, asked.out))
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m match_svc calibrate", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder with one folder of photos a person")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, for POI_MATCH_CALIBRATION")
    parser.add_argument(
        "--embed",
        default=os.environ.get("POI_EMBED_TARGET", "127.0.0.1:7001"),
        metavar="TARGET",
        help="where the embedding service is (%(default)s)",
    )
    parser.add_argument(
        "--photos-per-person",
        type=_positive,
        default=8,
        metavar="N",
        help="at most so many of each person, so that one with many does not decide (%(default)s)",
    )
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


async def _measured(asked: argparse.Namespace, out: TextIO) -> Table:
    photos = _photos(asked.folder, asked.photos_per_person)
    embedded = await _embedded(photos, asked.embed, out)
    labels = np.array([one.person for one in embedded], np.int64)
    identities = len(np.unique(labels))
    if identities < 2:
        raise _Impossible(f"{asked.folder} has usable photos of {identities} person: at least 2 are needed")
    aligned, unaligned, mean = (np.stack([one.vectors[kind] for one in embedded]) for kind in range(3))
    return Table(
        model=FACE_MODEL,
        source=f"{asked.folder.resolve().name}, at most {asked.photos_per_person} photos each",
        photos=len(embedded),
        identities=identities,
        thresholds=list(measure.THRESHOLDS),
        pipelines={
            ALIGNED: measure.pipeline(aligned, aligned, labels),
            UNALIGNED: measure.pipeline(mean, unaligned, labels),
        },
    )


def _photos(folder: Path, of_each: int) -> list[_Photo]:
    """By person and name, so that the same folder always gives the same table."""
    people = sorted(path for path in folder.iterdir() if path.is_dir())
    if len(people) < 2:
        raise _Impossible(f"{folder} has {len(people)} folders: one for each person is needed, 2 at least")
    photos = []
    for number, person in enumerate(people):
        images = sorted(path for path in person.iterdir() if path.suffix.lower() in _IMAGES)
        photos += [_Photo(path, number) for path in images[:of_each]]
    return photos


def _tool() -> TlsFiles | None:
    """The identity of this tool, as `poi` has it; None where servers ask for none."""
    files = [os.environ.get(f"POI_TLS_{name}", "") for name in ("CERTIFICATE", "KEY", "CA")]
    if any(files) and not all(files):
        raise _Impossible("POI_TLS_CERTIFICATE, POI_TLS_KEY and POI_TLS_CA go together")
    return TlsFiles(*map(Path, files)) if all(files) else None


async def _embedded(photos: Sequence[_Photo], target: str, out: TextIO) -> list[_Embedded]:
    """The faces; photos without exactly one are listed and left out."""
    turns = asyncio.Semaphore(_AT_ONCE)
    try:
        channel = channels.connect(
            target,
            service="embed",
            tls=_tool(),
            token=os.environ.get("POI_TOKEN", "").strip(),
            default_timeout=_EMBED_SECONDS,
        )
    except ValueError as error:
        raise _Impossible(f"{error} (POI_TLS_CERTIFICATE, POI_TLS_KEY, POI_TLS_CA, POI_TOKEN)") from None
    async with channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)

        async def one(photo: _Photo) -> _Embedded | str:
            async with turns:
                return await _face(stub, photo, target)

        tasks = [asyncio.create_task(one(photo)) for photo in photos]
        try:
            outcomes = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
    found = []
    for photo, outcome in zip(photos, outcomes, strict=True):
        if isinstance(outcome, str):
            out.write(f"left out: {photo.path}: {outcome}\n")
        else:
            found.append(outcome)
    return found


async def _face(stub: embedding_pb2_grpc.EmbeddingServiceAsyncStub, photo: _Photo, target: str) -> _Embedded | str:
    """The face on a photo, or why it is of no use."""
    request = embedding_pb2.DetectFacesRequest(
        parent=f"stores/{os.environ.get('POI_STORE') or 'calibration'}",
        image=await asyncio.to_thread(photo.path.read_bytes),
        options=embedding_pb2.FaceOptions(min_confidence=_MIN_CONFIDENCE, alignments=_ALIGNMENTS),
        single_face=True,
    )
    try:
        answer = await stub.DetectFaces(request)
    except grpc.aio.AioRpcError as error:
        if error.code() in _AWAY:
            raise _Impossible(f"no embedding service answers at {target} (--embed, POI_EMBED_TARGET)") from None
        told: MeshError = from_rpc(error)
        if error.code() in _SHUT:  # it would say the same of every photo
            raise _Impossible(f"{told.message} ({told.reason}): POI_TOKEN, POI_STORE") from None
        return f"{told.message} ({told.reason})"
    (face,) = answer.faces
    aligned, unaligned, mean = (decode(embedding) for embedding in face.embeddings)
    return _Embedded(photo.person, (aligned, unaligned, mean))


def _summary(table: Table, path: Path) -> str:
    lines = [f"{table.photos} photos of {table.identities} persons: {path}"]
    for name, what in ((ALIGNED, "aligned"), (UNALIGNED, "unaligned")):
        pipeline = table.pipelines[name]
        lines.append(f"{what} probes: {pipeline.impostor_pairs} impostor and {pipeline.genuine_pairs} genuine pairs")
        lines += [f"  cosine {cosine:.2f}: {_rates(table, pipeline, cosine)}" for cosine in (0.4, 0.45, 0.5, 0.55)]
    try:
        calibration = Calibration.of(table)
    except ValueError as error:
        lines.append(f"no threshold can be told from it, and the match service will refuse it: {error}")
    else:
        for rate in _RATES:
            cosines = [calibration.cosine(rate, aligned) for aligned in (True, False)]
            told = ", ".join(f"{cosine:.3f}{' (extrapolated)' if beyond else ''}" for cosine, beyond in cosines)
            lines.append(f"one false match in {1 / rate:,.0f} comparisons: cosine aligned, unaligned {told}")
    return "\n".join(lines) + "\n"


def _rates(table: Table, pipeline: Pipeline, cosine: float) -> str:
    at = table.thresholds.index(cosine)
    return f"false match rate {pipeline.fmr[at]:.2e}, false non-match rate {pipeline.fnmr[at]:.3f}"
