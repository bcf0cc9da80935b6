"""Rates become cosines by what was measured, and beyond it with care."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc

from match_svc import calibration
from match_svc.calibration import Calibration, command, measure, shipped
from match_svc.calibration.table import ALIGNED, UNALIGNED, Pipeline, Table
from match_svc.settings import MatchServerSettings
from mesh.auth import Role
from mesh.errors import FailedPrecondition
from mesh.local.secured import tls_env
from mesh.pki import Authority
from mesh.server import Server
from mesh.settings import load
from mesh.token import Accounts
from tests.support import embedding, similar, unit
from tests.support.vectors import Vector

Record = dict[str, Any]


def table_file(folder: Path, **changes: Any) -> Path:
    """The shipped table as a file, with some of it replaced."""
    shipped_file = Path(calibration.__file__).parent / "face-reidentification-retail-0095.json"
    path = folder / "table.json"
    path.write_text(json.dumps({**json.loads(shipped_file.read_text()), **changes}))
    return path


def normal_tail(cosine: float, spread: float) -> float:
    """How often a normal variable of this spread is larger."""
    return math.erfc(cosine / spread / math.sqrt(2)) / 2


def drawn_table(pairs: int, spread: float = 0.1, wrong: float = 0.0) -> Table:
    """What would be measured on so many pairs of normally distributed strangers, and a share of wrong names."""
    random = np.random.default_rng(3)
    thresholds = list(measure.THRESHOLDS)
    tails = np.array([normal_tail(at, spread) for at in thresholds])
    inside = random.multinomial(pairs, [1 - tails[0], *(tails[:-1] - tails[1:]), tails[-1]])
    rates = (np.cumsum(inside[::-1])[::-1][1:] / pairs + wrong).tolist()
    curve = Pipeline(impostor_pairs=pairs, genuine_pairs=1, fmr=rates, fnmr=[0.0] * len(thresholds))
    return Table(
        model="m",
        source="s",
        photos=2,
        identities=2,
        thresholds=thresholds,
        pipelines={ALIGNED: curve, UNALIGNED: curve},
    )


@pytest.mark.parametrize(
    ("rate", "aligned", "cosine"), [(5.35e-5, True, 0.45), (1.24e-5, True, 0.5), (1.94e-5, False, 0.5)]
)
def test_the_shipped_table_says_what_was_measured(rate: float, aligned: bool, cosine: float) -> None:
    told, extrapolated = shipped().cosine(rate, aligned)

    assert told == pytest.approx(cosine, abs=1e-9)
    assert not extrapolated
    assert shipped().false_match_rate(cosine, aligned) == pytest.approx(rate)


def test_between_two_measured_points_the_logarithm_of_the_rate_is_straight() -> None:
    between, _ = shipped().cosine(math.sqrt(5.35e-5 * 4.01e-5), True)

    assert between == pytest.approx(0.455, abs=1e-6)
    assert shipped().false_match_rate(0.455, True) == pytest.approx(math.sqrt(5.35e-5 * 4.01e-5), rel=1e-6)


@given(st.lists(st.floats(1e-16, 0.5), min_size=2, max_size=2), st.booleans())
def test_a_lower_rate_never_asks_for_less(rates: list[float], aligned: bool) -> None:
    low, high = (shipped().cosine(rate, aligned)[0] for rate in sorted(rates))

    assert 0.2 <= high <= low <= 0.9


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2), st.booleans())
def test_a_higher_cosine_is_never_reached_more_often(cosines: list[float], aligned: bool) -> None:
    often, rare = (shipped().false_match_rate(cosine, aligned) for cosine in sorted(cosines))

    assert 0 < rare <= often <= 1


@given(st.floats(0.2, 0.9), st.booleans())
def test_there_and_back_is_the_same_cosine(cosine: float, aligned: bool) -> None:
    assert shipped().cosine(shipped().false_match_rate(cosine, aligned), aligned)[0] == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize("wrong", [0.0, 4e-7])
def test_beyond_the_data_it_goes_on_as_a_normal_tail_and_says_so(wrong: float) -> None:
    """Also where a few photos under wrong names make the measured tail flat: there 1e-9 would never be reached."""
    told = Calibration.of(drawn_table(25_000_000, wrong=wrong))

    for rate in (1e-7, 1e-8, 1e-9):
        cosine, extrapolated = told.cosine(rate, True)
        truth = next(at / 1000 for at in range(1000) if normal_tail(at / 1000, 0.1) < rate)
        assert extrapolated
        assert cosine == pytest.approx(truth, abs=0.03)
    assert told.cosine(1e-4, True)[1] is False


def test_a_flat_tail_of_mislabelled_photos_is_not_taken_for_strangers() -> None:
    """The shipped table measures 3.8e-7 from 0.67 to 0.80."""
    assert shipped().false_match_rate(0.7, True) < 5e-8
    told, extrapolated = shipped().cosine(3e-7, True)
    assert told == pytest.approx(0.61, abs=0.02)
    assert extrapolated


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "another"}, "is of model another"),
        ({"thresholds": [0.1, 0.2]}, "has 91 rates for 2 thresholds"),
        ({"thresholds": [0.2, 0.1]}, "do not ascend"),
        ({"pipelines": {}}, f"has no {ALIGNED}"),
        ({"photos": 1}, "photos"),
        ({"pipelines": drawn_table(1000).model_dump()["pipelines"], "model": ""}, "is of model"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path: Path, changes: Record, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as raised:
        calibration.load(table_file(tmp_path, **changes))

    assert "\n" not in str(raised.value)
    assert str(tmp_path / "table.json") in str(raised.value)


def test_a_table_of_few_pairs_is_refused(tmp_path: Path) -> None:
    few = table_file(tmp_path, pipelines=drawn_table(200).model_dump()["pipelines"])

    with pytest.raises(ValueError, match="200 impostor pairs are too few"):
        calibration.load(few)


@pytest.mark.parametrize("content", ["{", "[]", "", None])
def test_a_bad_table_stops_the_start_with_one_line(
    tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("POI_MATCH_CALIBRATION", str(path))

    with pytest.raises(SystemExit) as stopped:
        load(MatchServerSettings, [])

    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"POI_MATCH_CALIBRATION: {path}: " in line


def test_a_table_of_ones_own_replaces_the_shipped_one(tmp_path: Path) -> None:
    own = table_file(tmp_path, pipelines=drawn_table(25_000_000).model_dump()["pipelines"])

    path = MatchServerSettings(calibration=own).calibration

    assert calibration.load(path).cosine(1e-3, True)[0] == pytest.approx(0.309, abs=0.001)


def test_rates_among_labelled_embeddings_are_those_of_counting_all_pairs() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2])
    faces = np.stack([similar(unit(label), 0.8, 10 + at) for at, label in enumerate(labels)])
    probes = np.stack([similar(face, 0.9, 50 + at) for at, face in enumerate(faces)])

    measured = measure.pipeline(faces, probes, labels)

    for number, threshold in enumerate(measure.THRESHOLDS):
        reached = {True: 0, False: 0}
        for i, j in [(i, j) for i in range(6) for j in range(6) if i != j]:
            reached[bool(labels[i] == labels[j])] += bool(faces[i] @ probes[j] >= np.float32(threshold))
        assert measured.fmr[number] == pytest.approx(reached[False] / 22)
        assert measured.fnmr[number] == pytest.approx(1 - reached[True] / 8)
    assert (measured.impostor_pairs, measured.genuine_pairs) == (22, 8)


class Eyes(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Sees on an "image" what its text says: a person's number and that of the photo, or nobody."""

    async def DetectFaces(self, request: embedding_pb2.DetectFacesRequest, context: Any) -> Any:
        person, photo = request.image.decode().split()
        assert request.single_face
        if person == "nobody":
            raise FailedPrecondition("no face was found", reason="NO_FACE")
        aligned = similar(unit(int(person)), 0.75, 1000 * int(person) + int(photo))
        unaligned = similar(aligned, 0.81, 7 * int(photo) + 1)
        vectors: dict[int, Vector] = {
            common_pb2.ALIGNMENT_ALIGNED: aligned,
            common_pb2.ALIGNMENT_UNALIGNED: unaligned,
            common_pb2.ALIGNMENT_MEAN: (aligned + unaligned) / np.linalg.norm(aligned + unaligned),
        }
        face = embedding_pb2.Face(
            embeddings=[embedding(vectors[kind], alignment=kind) for kind in request.options.alignments]
        )
        return embedding_pb2.DetectFacesResponse(faces=[face])

    async def StreamFaces(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def ListModels(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
async def eyes() -> AsyncIterator[str]:
    """Where an embedding service is."""
    settings = MatchServerSettings(listen="127.0.0.1:0", metrics_listen="", drain_seconds=0.0)
    server = Server(settings)
    server.add(embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, Eyes(), "poi.v1.EmbeddingService")
    async with server:
        yield server.address


def album(folder: Path, people: int, photos: int) -> Path:
    for person in range(people):
        (folder / f"p{person:03}").mkdir(parents=True)
        for photo in range(photos):
            (folder / f"p{person:03}" / f"{photo}.jpg").write_text(f"{person + 1} {photo + 1}")
    return folder


async def calibrated(*arguments: object) -> tuple[int, str]:
    out = StringIO()
    status = await asyncio.to_thread(command.calibrate, [str(each) for each in arguments], out)
    return status, out.getvalue()


async def test_a_folder_of_photos_becomes_a_table_that_the_service_reads(eyes: str, tmp_path: Path) -> None:
    folder, out = album(tmp_path / "staff", people=80, photos=3), tmp_path / "own.json"
    (folder / "p000" / "4.png").write_text("nobody 1")
    (folder / "p001" / "notes.txt").write_text("not a photo")

    status, told = await calibrated(folder, "--out", out, "--embed", eyes, "--photos-per-person", 4)

    assert status == 0
    assert f"left out: {folder / 'p000' / '4.png'}: no face was found (NO_FACE)" in told
    assert "240 photos of 80 persons" in told
    table = Table.model_validate_json(out.read_text())
    assert (table.photos, table.identities, table.model) == (240, 80, "face-reidentification-retail-0095")
    assert table.source == "staff, at most 4 photos each"
    aligned, unaligned = (table.pipelines[name] for name in (ALIGNED, UNALIGNED))
    assert (aligned.impostor_pairs, aligned.genuine_pairs) == (240 * 237, 240 * 2)
    assert aligned.fnmr[45] < 0.1 < unaligned.fnmr[45] + 0.1, "one person's photos: cosine 0.56 aligned"
    assert aligned.fmr[45] < 1e-3
    loaded = calibration.load(out)
    for rate in (1e-2, 1e-3):
        assert loaded.cosine(rate, True)[0] == pytest.approx(0.2, abs=0.1), "random directions are far apart"
    assert "one false match in 1,000 comparisons: cosine aligned, unaligned" in told

    fewer = await calibrated(folder, "--out", out, "--embed", eyes, "--photos-per-person", 1)
    assert fewer[0] == 0
    assert "80 photos of 80 persons" in fewer[1]


async def test_what_cannot_become_a_table_is_refused_in_one_line(
    eyes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lonely, out = album(tmp_path / "lonely", people=1, photos=3), tmp_path / "own.json"
    half = album(tmp_path / "half", people=2, photos=1)
    (half / "p001" / "0.jpg").write_text("nobody 1")

    async def complaint(*arguments: object) -> str:
        status, _ = await calibrated(*arguments, "--out", out)
        told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]  # the server logs
        (line,) = told
        assert status == 1
        return line

    assert "has 1 folders: one for each person is needed, 2 at least" in await complaint(lonely, "--embed", eyes)
    assert "usable photos of 1 person: at least 2 are needed" in await complaint(half, "--embed", eyes)
    assert "No such file" in await complaint(tmp_path / "nowhere", "--embed", eyes)
    assert not out.exists()


async def test_a_small_table_is_written_and_says_that_it_is_too_small(eyes: str, tmp_path: Path) -> None:
    folder, out = album(tmp_path / "two", people=2, photos=2), tmp_path / "own.json"

    status, told = await calibrated(folder, "--out", out, "--embed", eyes)

    assert status == 0
    assert "8 impostor pairs are too few" in told
    assert Table.model_validate_json(out.read_text()).identities == 2


async def test_a_secured_embedding_service_takes_who_has_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    authority, accounts = Authority(tmp_path / "pki"), Accounts(tmp_path / "keys")
    authority.create("poi-mesh")
    ours, tool = (authority.issue(name, "s1", timedelta(hours=1)).files for name in ("embed", "cli"))
    token = accounts.issue("ann", {Role.ANALYST}, {"s1"}, timedelta(hours=1))
    settings = MatchServerSettings(
        listen="127.0.0.1:0",
        metrics_listen="",
        drain_seconds=0.0,
        tls_certificate=ours.certificate,
        tls_key=ours.key,
        tls_ca=ours.ca,
        auth="required",
        jwks=str(accounts.jwks),
    )
    folder, out = album(tmp_path / "two", people=2, photos=2), tmp_path / "own.json"
    for name, value in tls_env(tool).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("POI_STORE", "s1")
    server = Server(settings)
    server.add(embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, Eyes(), "poi.v1.EmbeddingService")
    async with server:
        without, _ = await calibrated(folder, "--out", out, "--embed", server.address)
        monkeypatch.setenv("POI_TOKEN", token)
        with_it, _ = await calibrated(folder, "--out", out, "--embed", server.address)

    assert (without, with_it) == (1, 0)
    assert "calibrate: you may not do this (NO_ROLE): POI_TOKEN, POI_STORE\n" in capsys.readouterr().err
    assert Table.model_validate_json(out.read_text()).identities == 2


async def test_without_an_embedding_service_it_says_where_it_looked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_EMBED_SECONDS", 0.2)
    folder = album(tmp_path / "two", people=2, photos=2)

    status, _ = await calibrated(folder, "--out", tmp_path / "o.json", "--embed", f"127.0.0.1:{free_port}")

    assert status == 1
    assert f"no embedding service answers at 127.0.0.1:{free_port}" in capsys.readouterr().err
