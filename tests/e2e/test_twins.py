"""Two enrolled persons who look alike: the one who is nearer alerts, once, and the other is named beside them."""

from __future__ import annotations

import pytest

from tests.e2e.floor import floor, last
from tests.e2e.store import Store
from tests.support import similar, unit

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work

ANNE = unit(911)
TWIN = similar(ANNE, 0.8, 912)


async def test_of_twins_the_better_one_alerts_and_the_other_is_runner_up(store: Store) -> None:
    camera = "twins"
    async with floor(store) as here:
        await here.enrol("anne", ANNE)
        await here.enrol("twin", TWIN, twin=True)
        await here.shows(camera, 1, [similar(ANNE, 0.9, 30 + number) for number in range(5)], at=1)
        await here.shows(camera, 2, [similar(TWIN, 0.9, 40 + number) for number in range(5)], at=2)
        await here.used()

        assert await here.raised(camera) == [(camera, "1", "anne"), (camera, "2", "twin")]
        for alert in await here.alerts(camera):
            (other,) = alert.runners_up
            assert {last(alert.match.poi), last(other.poi)} == {"anne", "twin"}
            assert other.threshold <= other.similarity < alert.match.similarity


async def test_who_is_alone_above_the_threshold_has_no_runner_up(store: Store) -> None:
    camera = "no-twin"
    async with floor(store) as here:
        await here.enrol("anne", ANNE)
        await here.enrol("other", unit(913))
        await here.shows(camera, 1, [ANNE] * 3, at=1)
        await here.used()

        (alert,) = await here.alerts(camera)
        assert last(alert.match.poi) == "anne"
        assert not alert.runners_up
