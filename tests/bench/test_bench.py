"""The benchmark measures something: a short run of it, and its arithmetic."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import lag, profile
from bench.load import CAMERAS, Job
from bench.results import Report

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("flags", [[], ["--secure"]])
def test_a_quick_run_loses_nothing_and_says_everything(tmp_path: Path, flags: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", *flags, "--out", str(tmp_path)],
        cwd=_ROOT,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    written = re.search(r"Written to (.+\.json)", run.stdout)
    assert written, run.stdout
    report = Report.model_validate_json(Path(written[1]).read_bytes())

    assert report.command == " ".join(["python -m bench --quick", *flags, f"--out {tmp_path}"])
    assert report.secure == bool(flags)
    assert report.machine.cpu
    assert report.machine.cores >= 1
    assert report.machine.broker
    assert report.data
    (row,) = report.rows
    assert (row.faces_per_message, row.pois) == (4, 10)
    assert row.sustained is not None
    assert row.latency is not None
    for done in (row.sustained, row.latency.run):
        assert done.published_messages == done.acknowledged_messages > 0
        assert done.detections == done.published_messages * 4
        assert (done.lost_detections, done.refused, done.lost_alerts, done.doubled_alerts) == (0, 0, 0, 0)
        assert done.expected_alerts > 0
        assert done.cpu_us_per_detection.keys() == {
            "redis", "broker", "match", "history", "region", "alert", "ingest", "client", "load generator", "all",
            *(["audit"] if flags else []),
        }  # fmt: skip
        assert done.cpu_us_per_detection["ingest"] > 0
    assert row.latency.alerts == row.latency.run.expected_alerts
    assert 0 < row.latency.p50_ms <= row.latency.p95_ms <= row.latency.p99_ms <= row.latency.max_ms
    assert row.baseline.detections_per_second == pytest.approx(4 * row.baseline.messages_per_second)
    assert row.ratio == pytest.approx(row.sustained.detections_per_second / row.baseline.detections_per_second)
    assert not list(tmp_path.glob("run-*")), "the mesh's data is left behind"


def published(rate: float, seconds: float) -> list[float]:
    return [number / rate for number in range(round(rate * seconds))]


def test_a_mesh_that_keeps_up_has_a_lag_that_does_not_grow() -> None:
    times = published(100, 9)
    samples = [(at / 10, max(round((at / 10 - 0.05) * 100), 0)) for at in range(90)]  # 50 ms behind
    measured = lag.measure(times, samples)
    assert measured.first == pytest.approx(0.05, abs=0.02)
    assert measured.last == pytest.approx(0.05, abs=0.02)
    assert not measured.growing


def test_a_mesh_that_is_3_percent_too_slow_has_a_lag_that_grows() -> None:
    times = published(100, 9)
    samples = [(at / 10, round(at / 10 * 97)) for at in range(90)]
    measured = lag.measure(times, samples)
    assert measured.last > measured.first + lag.GROWTH_LIMIT_S
    assert measured.growing


def test_a_pause_of_seconds_is_no_steady_state_though_it_is_made_up_for() -> None:
    times = published(100, 9)
    samples = [(at / 10, 300 if 30 <= at < 55 else at * 10) for at in range(90)]
    measured = lag.measure(times, samples)
    assert measured.first == measured.last == 0
    assert measured.growing


def test_too_few_samples_tell_no_lag() -> None:
    with pytest.raises(ValueError, match="do not tell a lag"):
        lag.measure(published(100, 9), [(1.0, 100)])


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)])
def test_quantiles_of_one_to_a_hundred(share: float, expected: float) -> None:
    assert lag.quantile([float(value) for value in range(1, 101)], share) == expected


def test_a_job_counts_the_messages_that_its_traffic_holds() -> None:
    assert Job("mqtt://x", 4, 1000.0, 2.0, 0, 0).messages == 2000
    assert Job("mqtt://x", 4, 0.1, 0.1, 0, 0).messages == CAMERAS


def test_a_profile_says_who_spent_the_time() -> None:
    lines = profile.summarise("main (a.py:1);work (a.py:5) 30\nmain (a.py:1);work (a.py:7) 50\nmain (a.py:2) 20\n")
    assert lines[0].split() == ["100.0%", "in", "all", "20.0%", "itself", "main", "(a.py)"]
    assert lines[1].split() == ["80.0%", "in", "all", "80.0%", "itself", "work", "(a.py)"]
