"""The commands of an investigation, on a running mesh."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc, history_pb2, region_pb2, region_pb2_grpc

from mesh import channels
from tests.cli.conftest import Poi
from tests.history_svc.client import STORE, Client, detection, moment
from tests.history_svc.test_frames import jpeg, upload

WHO = "1c9cbf2e"


async def _embedding(poi: Poi, photo: bytes) -> common_pb2.Embedding:
    request = embedding_pb2.DetectFacesRequest(
        parent=STORE,
        image=photo,
        options=embedding_pb2.FaceOptions(alignments=[common_pb2.ALIGNMENT_UNALIGNED]),
    )
    channel = channels.connect(poi.mesh.target("embed"))
    found = await embedding_pb2_grpc.EmbeddingServiceStub(channel).DetectFaces(request)
    await channel.close()
    return found.faces[0].embeddings[0]


async def _zones(poi: Poi) -> None:
    """Somebody is in the entrance from 0 to 8 and in the aisle from 8 to 20, seen by the door's camera."""
    updates = []
    for at, zone in ((0, "entrance"), (8, "aisle"), (14, "aisle"), (20, "")):
        update = region_pb2.SceneUpdate(scene=f"{STORE}/scenes/shop", update_time=moment(at))
        person = update.objects.add(object_id=WHO, cameras=[f"{STORE}/cameras/door"])
        if zone:
            person.zones.add(zone_id=zone)
        updates.append(update)
    channel = channels.connect(poi.mesh.target("region"))
    call = region_pb2_grpc.RegionServiceStub(channel).RecordSceneUpdates()
    await call.write(region_pb2.RecordSceneUpdatesRequest(parent=STORE, updates=updates))
    response = await call.read()
    assert isinstance(response, region_pb2.RecordSceneUpdatesResponse)
    assert not response.errors
    await call.done_writing()
    await channel.close()


@pytest.fixture(scope="module")
def appearance(poi: Poi, photos: dict[str, Path]) -> str:
    """The woman at the door and later at the till, the man in between; the id of her appearance at the door."""

    images = {who: photos[who].read_bytes() for who in ("woman", "man")}

    async def record() -> str:
        faces = {who: await _embedding(poi, image) for who, image in images.items()}

        def seen(who: str, camera: str, *times: float) -> list[common_pb2.Detection]:
            found = [detection(at=at, object_id=who, camera=camera) for at in times]
            for one in found:
                one.embedding.CopyFrom(faces[who])
                one.face_confidence = 0.99
            return found

        await _zones(poi)
        async with Client(poi.mesh.target("history")) as client:
            answer = await client.append(
                *seen("woman", "till", 40, 44), *seen("woman", "door", 2, 10), *seen("man", "door", 25, 30)
            )
            door = answer.stored[2].appearance
            frames = [upload(jpeg(seed), door, at=at, camera="door") for seed, at in ((1, 2), (2, 5))]
            frames[1].kind = history_pb2.FRAME_KIND_BEST
            assert len((await client.append(frames=frames)).frames) == 2
        return door.rpartition("/")[2]

    return asyncio.run(record())


def _cells(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.rstrip()) for line in text.splitlines()]


def test_a_search_ends_with_its_summary(poi: Poi, photos: dict[str, Path], appearance: str) -> None:
    found = poi.output("search", photos["woman"], "--min-similarity", "0.9", "--order", "time")

    hits, cameras, zones = (_cells(part) for part in re.split(r"\n *\n", found))
    assert [hit[1] for hit in hits[1:]] == ["door", "till"]
    assert hits[1][5:] == ["2", "entrance 8.0 s, aisle 12.0 s", appearance]
    assert cameras[0][0] == "2 in all"
    assert [row[:2] for row in cameras[2:]] == [["door", "1"], ["till", "1"]]
    assert [(row[0], row[1], row[2], row[-1]) for row in zones[1:]] == [
        ("aisle", "1", "12.0 s", WHO),
        ("entrance", "1", "8.0 s", WHO),
    ]


def test_the_order_is_by_similarity_unless_said(poi: Poi, photos: dict[str, Path], appearance: str) -> None:
    def objects(*options: str) -> list[tuple[str, str]]:
        hits = poi.json("search", photos["woman"], photos["man"], "--min-similarity", "0.9", *options)["hits"]
        return [(hit["appearance"]["objectId"], hit["appearance"]["camera"].rpartition("/")[2]) for hit in hits]

    assert objects("--order", "time") == [("woman", "door"), ("man", "door"), ("woman", "till")]
    assert sorted(objects()) == sorted(objects("--order", "time"))
    alone = poi.json("search", photos["man"], "--min-similarity", "0.9")
    assert [hit["appearance"]["objectId"] for hit in alone["hits"]] == ["man"]
    assert alone["summary"]["cameras"][0]["appearanceCount"] == 1


def test_a_journey_is_told_in_order(poi: Poi, photos: dict[str, Path], appearance: str) -> None:
    told = _cells(poi.output("journey", "--appearance", appearance))

    places = [step["camera" if "camera" in step else "zone"] for step in poi.json("journey", photos["woman"])["steps"]]
    assert [place.rpartition("/")[2] for place in places] == ["entrance", "door", "aisle", "till"]
    assert [row[2] for row in told[1:]] == ["entrance", "door", "aisle", "till"]
    assert told[1][4] == WHO
    assert "no appearance found" in poi.output("journey", photos["woman"], "--until", "8d")


def test_a_frame_is_listed_and_saved(poi: Poi, appearance: str, tmp_path: Path) -> None:
    rows = _cells(poi.output("frames", appearance))[1:]
    assert [(row[1], row[2]) for row in rows] == [("door", "ENTRY"), ("door", "BEST")]
    file = tmp_path / "frame.jpg"

    told = poi.output("frame", rows[1][-1], "-o", file)

    assert file.read_bytes() == jpeg(2)
    assert told.split()[-2:] == [str(len(jpeg(2))), "bytes"]
    absent = tmp_path / "absent.jpg"
    assert "(RESOURCE_NOT_FOUND)" in poi.fails("frame", "0" * 32, "-o", absent)
    assert not absent.exists()
    assert poi.fails("frame", rows[0][-1], "-o", tmp_path / "no" / "such").endswith(f"'{tmp_path}/no/such'")


@pytest.mark.parametrize(
    "arguments",
    [
        ("journey",),
        ("journey", "x.jpg", "--appearance", "a"),
        ("search", "x.jpg", "--order", "size"),
        ("frame", "f"),
    ],
)
def test_a_wrong_command_line_is_status_2(poi: Poi, arguments: tuple[str, ...]) -> None:
    assert poi(*arguments).exit_code == 2


@pytest.fixture
def passers(poi: Poi, photos: dict[str, Path], appearance: str) -> list[str]:
    """The woman twice and the man once at the back door; the ids of these appearances."""
    images = {who: photos[who].read_bytes() for who in ("woman", "man")}

    async def record() -> list[str]:
        made = []
        for at, who in ((100, "woman"), (200, "woman"), (300, "man")):
            one = detection(at=at, object_id=who, camera="back")
            one.embedding.CopyFrom(await _embedding(poi, images[who]))
            made.append(one)
        async with Client(poi.mesh.target("history")) as client:
            answer = await client.append(*made)
        return [one.appearance.rpartition("/")[2] for one in answer.stored]

    return asyncio.run(record())


def test_erase_shows_what_it_finds_and_removes_just_that(
    poi: Poi, photos: dict[str, Path], passers: list[str], appearance: str
) -> None:
    refused = poi("erase", photos["woman"], "--camera", "back")  # nobody says yes
    assert refused.exit_code == 1
    assert all(one in refused.stdout for one in passers[:2])
    assert passers[2] not in refused.stdout
    assert "2 appearances, 2 detections" in refused.stdout
    found = poi.json("search", photos["woman"], "--camera", "back")
    assert len(found["hits"]) == 2

    done = poi.output("erase", photos["woman"], "--camera", "back", "--yes")

    erasure = re.search(r"erased ([0-9a-f]{32}) ", done)
    assert erasure is not None
    assert "hits" not in poi.json("search", photos["woman"], "--camera", "back")
    assert "no appearance found" in poi.output("erase", photos["woman"], "--camera", "back", "--yes")
    receipt = poi.json("erasure", erasure[1])
    assert (receipt["appearanceCount"], receipt["detectionCount"]) == (2, "2")
    # Others are as they were: the man, and the woman at the other doors.
    assert len(poi.json("search", photos["man"], "--camera", "back")["hits"]) == 1
    assert poi.json("frames", appearance)["frames"]
    by_name = poi.json("erase", "--appearance", passers[2], "--yes")
    assert by_name["appearanceCount"] == 1
    assert "not found" in poi.fails("erase", "--appearance", passers[2], "--yes").lower()
