"""Resource names."""

from __future__ import annotations

import pytest

from mesh import names
from mesh.errors import InvalidArgument

KINDS = [
    (names.store, names.parse_store, ("s1",), "stores/s1"),
    (names.camera, names.parse_camera, ("s1", "Camera_01"), "stores/s1/cameras/Camera_01"),
    (names.poi, names.parse_poi, ("s1", "p7"), "stores/s1/pois/p7"),
    (names.reference, names.parse_reference, ("s1", "p7", "r1"), "stores/s1/pois/p7/references/r1"),
    (names.appearance, names.parse_appearance, ("s1", "0" * 32), f"stores/s1/appearances/{'0' * 32}"),
    (names.frame, names.parse_frame, ("s1", "f:1"), "stores/s1/frames/f:1"),
    (names.erasure, names.parse_erasure, ("s1", "e1"), "stores/s1/erasures/e1"),
    (names.alert, names.parse_alert, ("s1", "17-0"), "stores/s1/alerts/17-0"),
    (names.scene, names.parse_scene, ("s1", "x.y"), "stores/s1/scenes/x.y"),
    (names.zone, names.parse_zone, ("s1", "x", "z"), "stores/s1/scenes/x/zones/z"),
    (names.visit, names.parse_visit, ("s1", "v"), "stores/s1/visits/v"),
    (names.target, names.parse_target, ("s1", "t"), "stores/s1/targets/t"),
    (names.watchlist, names.parse_watchlist, ("s1", "w"), "stores/s1/watchlists/w"),
    (names.match_report, names.parse_match_report, ("s1", "m"), "stores/s1/matchReports/m"),
    (names.delivery, names.parse_delivery, ("s1", "t", "17-0"), "stores/s1/targets/t/deliveries/17-0"),
]


@pytest.mark.parametrize(("make", "parse", "ids", "name"), KINDS, ids=[kind[3] for kind in KINDS])
def test_round_trip(make: object, parse: object, ids: tuple[str, ...], name: str) -> None:
    assert callable(make)
    assert callable(parse)
    assert make(*ids) == name
    assert parse(name) == ids
    for wrong in (name + "/", name + "\n", "/" + name, name.replace("stores", "shops"), name[: name.rindex("/") + 1]):
        with pytest.raises(InvalidArgument) as caught:
            parse(wrong, "thing.name")
        ((field, description),) = caught.value.violations
        assert field == "thing.name"
        assert description.startswith("must look like stores/{store}")
        assert caught.value.reason == "INVALID_NAME"


@pytest.mark.parametrize("wrong", ["", "-a", ".", "a/b", "ä", "a" * 129, "a\n"])
def test_ids(wrong: str) -> None:
    assert not names.is_id(wrong)
    with pytest.raises(ValueError, match="not an id"):
        names.poi("s1", wrong)


def test_longest_id() -> None:
    assert names.is_id("a" * 128)
