"""The benchmark of matching measures something."""

from pathlib import Path

from bench.match.__main__ import measure
from mesh.local import Redis


async def test_a_short_run_measures_everything(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis", appendfsync="no") as redis:
        size = await measure(redis, tmp_path, 1000, 0.5, 40)

    assert (size.rows, size.index, size.recall) == (1000, "exact", 1.0)
    assert min(size.rate, size.baseline.shipped, size.start_seconds, size.resident_mib) > 0
    assert size.baseline.best > 0
    for pair in (size.one_face, size.enrolled, size.deleted):
        assert pair is not None
        assert 0 < pair[0] <= pair[1]
