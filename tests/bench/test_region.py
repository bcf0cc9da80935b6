"""The region benchmark measures something."""

from pathlib import Path

from bench import region


async def test_a_short_run_tells_every_entry_and_exit(tmp_path: Path) -> None:
    found = await region.measure(tmp_path, people=20, zones=5, scenes=2, rate=20.0, seconds=2.0)

    assert found.updates == 80
    assert found.watched == found.events > 40, "everybody enters at least"
    assert 0 < found.p50_ms <= found.p95_ms <= found.p99_ms
    assert found.cpu_share.keys() == {"redis", "broker", "region", "client"}
    assert found.cost.region > 0
    assert found.ratio > 0
    assert found.occupancy_ms > 0
