"""Which visits belong to a person on a camera."""

from collections.abc import Sequence

import pytest
from poi.v1 import region_pb2

from history_svc.visits import Found

CAMERA = "stores/s1/cameras/door"


def visit(zone: str, object_id: str, enter: int, exit: int, tracks: Sequence[str] = ()) -> region_pb2.Visit:
    message = region_pb2.Visit(
        name=f"stores/s1/visits/{zone}-{object_id}",
        zone=f"stores/s1/scenes/hall/zones/{zone}",
        object_id=object_id,
        cameras=[CAMERA],
        tracks=tracks,
    )
    message.enter_time.FromSeconds(enter)
    message.exit_time.FromSeconds(exit)
    message.last_seen_time.FromSeconds(exit)
    return message


@pytest.mark.parametrize(
    ("tracks_of_ann", "tracks_of_bob", "expected"),
    [
        ([], [], ["till ann", "till bob", "aisle ann"]),
        (["cam:door:7"], ["cam:door:8"], ["till ann", "aisle ann"]),
        (["cam:door:7"], [], ["till ann", "aisle ann"]),
        ([], ["cam:door:8"], ["till ann", "aisle ann"]),
        ([], ["cam:other:7"], ["till ann", "till bob", "aisle ann"]),
        (["cam:other:8", "cam:door:6", "cam:door:7"], ["cam:door:7"], ["till ann", "till bob", "aisle ann"]),
        (["cam:door:6"], ["cam:door:8"], []),
    ],
)
def test_a_persons_visits_are_those_whose_tracks_name_them(
    tracks_of_ann: list[str], tracks_of_bob: list[str], expected: list[str]
) -> None:
    visits = [
        visit("aisle", "ann", 5, 9),  # in no frame with boxes
        visit("till", "ann", 1, 5, tracks_of_ann),
        visit("till", "bob", 2, 6, tracks_of_bob),
        visit("till", "cid", 20, 30, ["cam:door:7"]),  # another time: cameras use their ids again
    ]

    found = Found(visits).during(CAMERA, 3 * 10**9, 8 * 10**9, "7")

    assert [f"{one.visit.zone.rpartition('/')[2]} {one.visit.object_id}" for one in found] == expected
