"""The history benchmark measures something: its data are what it says, and a small run says everything."""

import json
from pathlib import Path

import numpy as np
from poi.v1 import history_pb2
from typer import Typer
from typer.testing import CliRunner

from bench.history import __main__ as program
from bench.history import cold
from bench.history.appends import BATCH, Job, prepare
from bench.history.data import A_TRACK, Data
from bench.history.exact import Exact
from history_svc.records import appearance_numbers

ROWS = 8_000


def all_of(data: Data) -> Exact:
    exact = Exact(data.rows)
    exact.put(data.part(0, 4_000))
    exact.put(data.part(4_000, data.rows))
    return exact


def test_two_faces_of_one_person_have_a_cosine_of_three_quarters_and_strangers_none() -> None:
    part = Data(ROWS, 0, 10**12).part(0, ROWS)
    of_one = [part.vectors[at] @ part.vectors[at + 1] for at in range(0, ROWS, A_TRACK)]
    strangers = part.vectors[:1000] @ part.vectors[-1000:].T
    assert abs(np.mean(of_one) - 0.75) < 0.01
    assert abs(np.median(strangers)) < 0.01


def test_parts_are_the_same_whoever_asks_for_them_first() -> None:
    one, other = Data(ROWS, 0, 10**12), Data(ROWS, 0, 10**12)
    other.part(0, 4_000)
    assert np.array_equal(one.part(4_000, ROWS).vectors, other.part(4_000, ROWS).vectors)
    assert one.part(4_000, ROWS).ids.tobytes() == other.part(4_000, ROWS).ids.tobytes()


def test_the_truth_of_a_person_is_their_tracks() -> None:
    data = Data(ROWS, 0, 10**12)
    _, photos = data.queries(5, seed=1)
    part = data.part(0, 4_000)
    similar = {
        int(appearance_numbers(part.ids[row // A_TRACK * A_TRACK :][:1])[0])
        for row in np.flatnonzero(part.vectors @ photos[0] >= 0.5).tolist()
    }
    truth = all_of(data).truth(photos, 0.5)
    assert all(truth)
    assert similar <= truth[0]


def test_both_baselines_take_time() -> None:
    data = Data(ROWS, 0, 10**12)
    _, photos = data.queries(3, seed=1)
    exact = all_of(data)
    assert exact.as_shipped(photos) > 0
    assert exact.best_scan(photos, 0.5) > 0


def test_prepared_appends_are_requests_of_distinct_detections() -> None:
    requests = [history_pb2.AppendDetectionsRequest.FromString(one) for one in prepare(Job("", 40, 0.0, 10**18, 1))]
    detections = [one for request in requests for one in request.detections]
    assert [request.batch_id for request in requests] == list(range(40))
    assert len({one.detection_id for one in detections}) == len(detections) == 40 * BATCH
    first, again = requests[0].detections[0], requests[32].detections[0]
    assert (first.object_id, first.camera) == (again.object_id, again.camera), "the same person a moment later"
    assert again.detect_time.ToNanoseconds() - first.detect_time.ToNanoseconds() == 100_000_000


def test_the_page_cache_is_emptied_without_losing_a_byte(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    assert cold.empty(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"x" * 10_000


def test_a_small_run_says_everything(tmp_path: Path) -> None:
    app = Typer()
    app.command()(program.main)
    out = tmp_path / "history.json"
    arguments = ["--rows", str(ROWS), "--queries", "4", "--cold-queries", "1", "--appends", "640", "--rate", "2000"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads(out.read_bytes())
    server = report["server"]
    assert (report["rows"], report["segments"]) == (ROWS, 1)
    assert [server[name] for name in ("recall_centres", "recall_photos", "recall_photos_hard")] == [1.0, 1.0, 1.0]
    assert 0 < server["warm"]["p50"] <= server["warm"]["p95"]
    for appended in (server["appends_alone"], server["flat_out"]["appended"], server["paced"]["appended"]):
        assert appended["stored"] == 640
    assert server["paced"]["appended"]["seconds"] > 0.25, "640 at 2,000 a second"
    assert report["resident_after_start"]["resident"] > report["resident_after_start"]["own"] > 0
    assert report["flat_p50"] > 0
    assert report["disk_bytes_per_face"] > 512
    assert "start to serving" in done.output
