"""The benchmark of alert streams measures something."""

from pathlib import Path

from bench import alerts


async def test_a_short_run_reaches_every_client(tmp_path: Path) -> None:
    found = await alerts.measure(tmp_path, clients=20, alerts=6, rounds=2, pause=0.01)

    assert (found.alerts, found.missing) == (6, 0)
    assert found.message_bytes > 200
    for spread in (found.ours, found.baseline):
        assert 0 < spread.first_p50 <= spread.p50 <= spread.p95 <= spread.p99
        assert spread.server_cpu_us >= 0
    assert found.ratio_p99 > 0
