"""What enrolment says of faces: too poor, alike, different; and the pictures that it keeps."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
import redis
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc, poi_pb2

from match_svc.images import Framing, cut
from mesh.channels import connect
from mesh.embeddings import decode
from tests.match_svc.photos import ASIDE, FRONTAL, WOMAN, photo
from tests.match_svc.standin import StandIn, picture, standing_in
from tests.match_svc.support import STORE, Replica, refused, replica
from tests.support import embedding, similar, unit, valid_poi


@pytest.fixture
async def eyes() -> AsyncIterator[StandIn]:
    async with standing_in() as running:
        yield running


@pytest.fixture
async def one(redis_url: str, eyes: StandIn) -> AsyncIterator[Replica]:
    async with replica(redis_url, embed_target=eyes.target) as running:
        yield running


def create(*images: bytes, **fields: Any) -> poi_pb2.CreatePoiRequest:
    return poi_pb2.CreatePoiRequest(**{"parent": STORE, "poi": valid_poi(), "images": images, **fields})


async def enrolled(one: Replica) -> int:
    return (await one.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))).total_size


async def told(call: Any) -> tuple[str, list[tuple[str, str]], dict[str, str]]:
    """Reason, (type, subject) of the violations, and metadata of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    status = rpc_status.from_call(raised.value)  # type: ignore[no-untyped-call]
    info, unmet = error_details_pb2.ErrorInfo(), error_details_pb2.PreconditionFailure()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(unmet)
    return info.reason, [(one.type, one.subject) for one in unmet.violations], dict(info.metadata)


async def test_all_that_is_missing_is_named_at_once(replica: Replica) -> None:
    request = poi_pb2.CreatePoiRequest(parent=STORE, poi=poi_pb2.Poi(), embeddings=[embedding(unit(1))])

    code, _, fields = await refused(replica.pois.CreatePoi(request))

    assert code == "INVALID_ARGUMENT"
    assert fields == {
        f"poi.{name}" for name in ("display_name", "purpose", "legal_basis", "enrolled_by", "expire_time")
    }


async def test_a_watchlist_that_there_is_not_is_not_found(replica: Replica) -> None:
    poi = valid_poi(watchlists=[f"{STORE}/watchlists/thieves"])
    request = poi_pb2.CreatePoiRequest(parent=STORE, poi=poi, embeddings=[embedding(unit(1))])

    assert (await refused(replica.pois.CreatePoi(request)))[0] == "NOT_FOUND"


@pytest.mark.parametrize("field", ["purpose", "legal_basis", "legal_reference", "expire_time"])
async def test_why_and_until_when_can_be_changed_and_not_cleared(replica: Replica, field: str) -> None:
    made = await replica.enrol("p1", unit(1), legal_reference="case 7")
    mask = FieldMask(paths=[field])
    wanted = valid_poi(
        name=made.name, purpose="other", legal_basis=poi_pb2.LEGAL_BASIS_CONSENT, legal_reference="case 8"
    )

    changed = await replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=wanted, update_mask=mask))
    cleared = poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=made.name), update_mask=mask)

    assert getattr(changed, field) == getattr(wanted, field)
    assert await refused(replica.pois.UpdatePoi(cleared)) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", {f"poi.{field}"})
    mask = FieldMask(paths=["enrolled_by"])
    assert (await refused(replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=wanted, update_mask=mask))))[1] == (
        "INVALID_UPDATE_MASK"
    )


async def test_who_was_enrolled_before_a_purpose_was_asked_for_is_matched_and_changed(redis_url: str) -> None:
    old = poi_pb2.Poi(name=f"{STORE}/pois/old", display_name="Old", severity=common_pb2.SEVERITY_LOW)
    old.references.add(name=f"{old.name}/references/r", model=embedding(unit(1)).model, embeddings=[embedding(unit(1))])
    with redis.Redis.from_url(redis_url) as client:
        client.hset("poi:{gallery}:pois:store-1", "old", b"1:" + old.SerializeToString())
        client.hset("poi:{gallery}:revisions", "store-1", 1)
        client.set("poi:{gallery}:revision", 1)
    async with replica(redis_url) as one:
        assert await one.who(unit(1)) == ["old"]
        changed = await one.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=old.name, notes="seen")))
        assert (changed.notes, changed.purpose) == ("seen", "")


async def test_a_photo_that_is_too_poor_is_refused_with_all_that_is_wrong(one: Replica, eyes: StandIn) -> None:
    eyes.qualities[2] = [
        {"detector_confidence": 0.7, "face_width_px": 30, "sharpness": 0.2, "yaw_degrees": -50, "pitch_degrees": 40}
    ]
    eyes.vectors[2] = eyes.vector(1)
    eyes.qualities[3] = [{}, {}]
    eyes.qualities[4] = []
    photos = [picture(who) for who in (1, 2, 3, 4)]

    reason, violations, metadata = await told(one.pois.CreatePoi(create(*photos)))

    assert reason == "LOW_QUALITY"
    assert violations == [
        ("LOW_CONFIDENCE", "images[1]"),
        ("FACE_TOO_SMALL", "images[1]"),
        ("TOO_BLURRED", "images[1]"),
        ("NOT_FRONTAL", "images[1]"),
        ("NOT_FRONTAL", "images[1]"),
        ("MULTIPLE_FACES", "images[2]"),
        ("NO_FACE", "images[3]"),
    ]
    assert metadata == {"field": "images[1]", "value": "0.7", "limit": "0.9"}
    assert await enrolled(one) == 0

    found = (await one.pois.CreatePoi(create(*photos, validate_only=True))).enrolment_report
    assert not found.accepted
    assert [[round(one.value, 3) for one in face.problems] for face in found.faces] == [
        [],
        [0.7, 30, 0.2, 50, 40],
        [2],
        [0],
    ]
    assert [[round(one.limit, 3) for one in face.problems] for face in found.faces] == [
        [],
        [0.9, 40, 0.6, 35, 30],
        [1],
        [1],
    ]
    assert await enrolled(one) == 0


async def test_a_head_in_the_background_is_no_second_face(one: Replica, eyes: StandIn) -> None:
    eyes.qualities[1] = [{}, {"detector_confidence": 0.7}]
    eyes.qualities[2] = [{}, {"detector_confidence": 0.85}]

    assert (await one.pois.CreatePoi(create(picture(1)))).enrolment_report.accepted
    assert (await told(one.pois.CreatePoi(create(picture(2)))))[0] == "MULTIPLE_FACES"


async def test_who_looks_enrolled_already_needs_a_word(one: Replica) -> None:
    first = await one.enrol("first", unit(1))
    request = create(
        images=[], embeddings=[embedding(similar(unit(1), 0.6, 5), alignment=common_pb2.ALIGNMENT_ALIGNED)]
    )

    reason, violations, metadata = await told(one.pois.CreatePoi(request))
    assert (reason, violations) == ("LIKELY_DUPLICATE", [("LIKELY_DUPLICATE", first.name)])
    assert metadata == {"poi": first.name, "similarity": "0.600"}

    request.validate_only = True
    report = (await one.pois.CreatePoi(request)).enrolment_report
    assert ([(one.poi, round(one.similarity, 3), one.index) for one in report.duplicates], report.accepted) == (
        [(first.name, 0.6, 0)],
        False,
    )
    request.validate_only, request.allow_duplicate = False, True
    assert (await one.pois.CreatePoi(request)).enrolment_report.accepted

    await one.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=first.name))
    request.allow_duplicate = False
    assert (await told(one.pois.CreatePoi(request)))[2]["poi"] != first.name, "who was removed is nobody's duplicate"


async def test_who_was_enrolled_at_another_replica_just_now_is_a_duplicate(redis_url: str) -> None:
    async with replica(redis_url) as one, replica(redis_url) as other:
        for number in range(10):
            await one.enrol(f"p{number}", unit(number))
            request = create(images=[], embeddings=[embedding(unit(number))])
            assert (await told(other.pois.CreatePoi(request)))[0] == "LIKELY_DUPLICATE"


async def test_faces_of_different_people_need_a_word(one: Replica) -> None:
    request = create(picture(1), picture(1, frame=1), picture(2))

    reason, violations, _ = await told(one.pois.CreatePoi(request))
    assert (reason, violations) == (
        "REFERENCES_DISAGREE",
        [("REFERENCES_DISAGREE", "images[0]"), ("REFERENCES_DISAGREE", "images[1]")],
    )
    request.allow_disagreement = True
    made = await one.pois.CreatePoi(request)
    assert [(pair.index, pair.other_index) for pair in made.enrolment_report.disagreements] == [(0, 2), (1, 2)]

    add = poi_pb2.AddReferenceRequest(poi=made.name, image=picture(1, frame=2))
    reason, violations, metadata = await told(one.pois.AddReference(add))
    assert (reason, metadata["other"]) == ("REFERENCES_DISAGREE", made.references[2].name)
    add.validate_only = True
    would = await one.pois.AddReference(add)
    assert (len(would.references), would.enrolment_report.accepted) == (4, False)
    assert would.enrolment_report.disagreements[0].other_index == -1
    add.validate_only, add.allow_disagreement = False, True
    assert len((await one.pois.AddReference(add)).references) == 4


async def test_validation_stores_nothing_and_shows_what_would_be(one: Replica, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        before = set(client.keys())
        would = await one.pois.CreatePoi(create(picture(1), poi_id="p1", request_id="r1", validate_only=True))
        assert set(client.keys()) == before

    assert (would.name, len(would.references), would.enrolment_report.accepted) == (f"{STORE}/pois/p1", 1, True)
    made = await one.pois.CreatePoi(create(picture(1), poi_id="p1", request_id="r1"))
    assert made.enrolment_report == would.enrolment_report
    again = create(picture(1), poi_id="p1", validate_only=True)
    assert (await refused(one.pois.CreatePoi(again)))[0] == "ALREADY_EXISTS"
    kept = await one.pois.GetPoi(poi_pb2.GetPoiRequest(name=made.name, view=poi_pb2.POI_VIEW_FULL))
    assert not kept.HasField("enrolment_report")


async def test_pictures_come_and_go_with_their_references(one: Replica, redis_url: str) -> None:
    made = await one.pois.CreatePoi(create(picture(1), picture(1, frame=1)))
    first, second = (reference.name for reference in made.references)
    assert all(reference.has_image for reference in made.references)
    image = await one.pois.GetReferenceImage(poi_pb2.GetReferenceImageRequest(name=first))
    pixels = cv2.imdecode(np.frombuffer(image.image, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape == (80, 80, 3)
    assert (image.name, image.face_box.x, image.face_box.width) == (first, 20, 40)
    plain = await one.enrol("embedded", unit(50))
    gone = poi_pb2.GetReferenceImageRequest(name=plain.references[0].name)
    assert (await refused(one.pois.GetReferenceImage(gone)))[:2] == ("NOT_FOUND", "NO_IMAGE")

    with redis.Redis.from_url(redis_url) as client:
        assert client.hlen("poi:{gallery}:images:store-1") == 2
        await one.pois.DeleteReference(poi_pb2.DeleteReferenceRequest(name=first))
        assert client.hlen("poi:{gallery}:images:store-1") == 1
        assert (await refused(one.pois.GetReferenceImage(poi_pb2.GetReferenceImageRequest(name=first))))[0] == (
            "NOT_FOUND"
        )
        await one.pois.GetReferenceImage(poi_pb2.GetReferenceImageRequest(name=second))
        await one.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=made.name))
        assert client.hlen("poi:{gallery}:images:store-1") == 0


async def test_a_store_may_keep_no_pictures(redis_url: str, eyes: StandIn) -> None:
    async with replica(redis_url, embed_target=eyes.target, reference_image_px=0) as one:
        made = await one.pois.CreatePoi(create(picture(1)))
        assert not made.references[0].has_image


def test_a_picture_is_never_larger_than_it_may_be() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (900, 1200, 3), np.uint8)
    file = bytes(cv2.imencode(".png", noise)[1])
    face = common_pb2.BoundingBox(x=400, y=300, width=300, height=400)

    for most_px, most_bytes in ((512, 1 << 20), (512, 20_000), (100, 1 << 20)):
        image = cut(file, face, Framing(most_px, most_bytes))
        assert image is not None
        pixels = cv2.imdecode(np.frombuffer(image.image, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert max(pixels.shape) <= most_px
        assert len(image.image) <= most_bytes
        assert image.face_box.width / pixels.shape[1] == pytest.approx(300 / 800, rel=0.02)


async def test_the_picture_of_a_reference_embeds_as_its_photo_did(
    replica_with_eyes: Replica, embed_target: str, shared_dir: Path
) -> None:
    made = await replica_with_eyes.pois.CreatePoi(create(photo(shared_dir, WOMAN, FRONTAL)))
    full = await replica_with_eyes.pois.GetPoi(poi_pb2.GetPoiRequest(name=made.name, view=poi_pb2.POI_VIEW_FULL))
    name = made.references[0].name

    image = await replica_with_eyes.pois.GetReferenceImage(poi_pb2.GetReferenceImageRequest(name=name))

    async with connect(embed_target) as channel:
        request = embedding_pb2.DetectFacesRequest(parent=STORE, image=image.image, single_face=True)
        (face,) = (await embedding_pb2_grpc.EmbeddingServiceStub(channel).DetectFaces(request)).faces
    cosine = float(decode(face.embeddings[0]) @ decode(full.references[0].embeddings[0]))
    assert cosine > 0.95
    assert abs(face.box.x - image.face_box.x) < image.face_box.width / 8


async def test_a_face_that_looks_aside_is_refused(replica_with_eyes: Replica, shared_dir: Path) -> None:
    reason, violations, metadata = await told(replica_with_eyes.pois.CreatePoi(create(photo(shared_dir, WOMAN, ASIDE))))

    assert (reason, violations) == ("LOW_QUALITY", [("NOT_FRONTAL", "images[0]")])
    assert float(metadata["value"]) > 50
    assert metadata["limit"] == "35"
