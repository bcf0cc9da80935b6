"""`poi watchlists`: lists are made, changed, given persons, and deleted."""

from __future__ import annotations

import asyncio

import pytest
import typer
from poi.v1 import poi_pb2, poi_pb2_grpc

from clients.cli.listing import some_hours
from mesh import channels
from tests.cli.conftest import Poi
from tests.support import embedding, unit


def enrol_one(poi: Poi, store: str, poi_id: str) -> None:
    """Enrols a person from an embedding."""

    async def run() -> None:
        person = poi_pb2.Poi(
            display_name=poi_id, purpose="Test", legal_basis=poi_pb2.LEGAL_BASIS_CONSENT, enrolled_by="test"
        )
        person.expire_time.seconds = 4_000_000_000
        async with channels.connect(poi.mesh.target("match")) as channel:
            await poi_pb2_grpc.PoiServiceStub(channel).CreatePoi(
                poi_pb2.CreatePoiRequest(
                    parent=f"stores/{store}", poi_id=poi_id, poi=person, embeddings=[embedding(unit(1))]
                )
            )

    asyncio.run(run())


def test_a_watchlist_is_made_changed_given_persons_and_deleted(poi: Poi) -> None:
    lists = ("--store", "s-lists", "watchlists")
    assert "there are no watchlists" in poi.output(*lists, "list")
    enrol_one(poi, "s-lists", "jo")

    made = poi.json(
        *(*lists, "create", "thieves", "--name", "Thieves", "--rate", "1e-5", "--severity", "high"),
        *("--camera", "door", "--hours", "fri-mon 22:00-06:00", "--time-zone", "Europe/Berlin", "--retention", "30d"),
        *("--override", "till-1,till-2 cosine=0.5 severity=low"),
    )
    assert made["cameras"] == ["stores/s-lists/cameras/door"]
    assert made["hours"][0]["days"] == ["MONDAY", "FRIDAY", "SATURDAY", "SUNDAY"]
    assert (made["retention"], made["threshold"]) == ("2592000s", {"falseMatchRate": 1e-05})
    shown = poi.output(*lists, "get", "thieves")
    for told in ("1 in 100,000", "mon,fri,sat,sun 22:00-06:00", "Europe/Berlin", "30d", "on till-1, till-2  0.50 LOW"):
        assert told in shown

    assert poi.output(*lists, "add", "thieves", "jo") == "jo  on thieves\n"
    assert poi.output(*lists, "add", "thieves", "jo") == "jo  on thieves\n"
    assert "(WATCHLIST_NOT_EMPTY)" in poi.fails(*lists, "delete", "thieves")
    assert poi.json(*lists, "list")["watchlists"][0]["poiCount"] == 1
    assert poi.output(*lists, "remove", "thieves", "jo") == "jo  on no list: matched everywhere\n"
    assert "(RESOURCE_NOT_FOUND)" in poi.fails(*lists, "add", "gone", "jo")

    changed = poi.json(*lists, "update", "thieves", "--cosine", "0.6", "--clear", "hours", "--clear", "time-zone")
    assert round(changed["effective"]["aligned"], 4) == 0.6
    assert "hours" not in changed
    assert changed["severity"] == "SEVERITY_HIGH"
    assert "(ETAG_MISMATCH)" in poi.fails(*lists, "update", "thieves", "--etag", made["etag"], "--name", "T.")
    assert "not an id" in poi.fails(*lists, "create", "l", "--camera", "no such id")
    assert "nothing to change" in poi(*lists, "update", "thieves").stderr
    assert "exclude each other" in poi(*lists, "update", "thieves", "--rate", "1e-5", "--cosine", "0.5").stderr
    assert poi.output(*lists, "delete", "thieves") == "thieves  deleted\n"


@pytest.mark.parametrize("wrong", ["22-06", "xyz 22:00-06:00", "mon- 22:00", ""])
def test_hours_that_cannot_be_read_are_refused(wrong: str) -> None:
    with pytest.raises(typer.BadParameter):
        some_hours(wrong)
