"""The benchmark of what security costs measures something."""

from pathlib import Path

from bench import secure


async def test_each_piece_of_work_is_measured_in_each_way(tmp_path: Path) -> None:
    found = await secure.measure(tmp_path, 0.1)

    assert [len(work.costs) for work in found.works] == [5, 4, 4]
    for work in found.works:
        plain, *others = work.costs
        assert (plain.way, plain.ratio_cpu, plain.ratio_p50, plain.added_us) == ("plain", 1.0, 1.0, 0.0)
        for cost in work.costs:
            assert cost.calls_per_second > 0
            assert 0 < cost.p50_ms <= cost.p99_ms
            assert cost.client_us > 0
        assert all(cost.ratio_p50 > 0 for cost in others)
