"""Enrolment from photos, with the real embedding service and real faces."""

from pathlib import Path

import grpc
import pytest
from poi.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc, match_pb2, poi_pb2

from mesh.channels import connect
from tests.match_svc.photos import BOTH, FRONTAL, MAN, TURNED, WOMAN, blank, photo
from tests.match_svc.support import STORE, Replica, becomes, refused, replica
from tests.support import valid_poi

ALIGNED, UNALIGNED, MEAN = common_pb2.ALIGNMENT_ALIGNED, common_pb2.ALIGNMENT_UNALIGNED, common_pb2.ALIGNMENT_MEAN


def create(*images: bytes, poi_id: str = "woman", request_id: str = "") -> poi_pb2.CreatePoiRequest:
    return poi_pb2.CreatePoiRequest(
        parent=STORE, poi_id=poi_id, poi=valid_poi("W."), images=images, request_id=request_id
    )


async def test_who_was_enrolled_from_a_photo_is_known_from_another(
    replica_with_eyes: Replica, embed_target: str, shared_dir: Path
) -> None:
    one = replica_with_eyes
    made = await one.pois.CreatePoi(create(photo(shared_dir, WOMAN, FRONTAL), photo(shared_dir, WOMAN, TURNED)))
    full = await one.pois.GetPoi(poi_pb2.GetPoiRequest(name=made.name, view=poi_pb2.POI_VIEW_FULL))
    assert len(full.references) == 2
    for reference in full.references:
        assert [embedding.alignment for embedding in reference.embeddings] == [ALIGNED, UNALIGNED, MEAN]
        assert reference.quality.score > 0
        assert reference.quality.face_width_px > 40

    async with connect(embed_target) as channel:
        embed = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        for clip, frame, expected in ((WOMAN, 17, ["woman"]), (MAN, 40, [])):
            request = embedding_pb2.DetectFacesRequest(
                parent=STORE,
                image=photo(shared_dir, clip, frame),
                options=embedding_pb2.FaceOptions(alignments=[ALIGNED, UNALIGNED], min_confidence=0.9),
                single_face=True,
            )
            (face,) = (await embed.DetectFaces(request)).faces
            response = await one.match.MatchFaces(match_pb2.MatchFacesRequest(parent=STORE, embeddings=face.embeddings))
            for matched in response.faces:
                assert [match.poi.rpartition("/")[2] for match in matched.matches] == expected


async def test_a_reference_is_added_from_a_photo(replica_with_eyes: Replica, shared_dir: Path) -> None:
    made = await replica_with_eyes.pois.CreatePoi(create(photo(shared_dir, WOMAN, FRONTAL)))

    grown = await replica_with_eyes.pois.AddReference(
        poi_pb2.AddReferenceRequest(poi=made.name, image=photo(shared_dir, WOMAN, TURNED))
    )

    assert len(grown.references) == 2
    assert grown.references[0] == made.references[0]
    assert grown.enrolment_report.accepted


async def test_a_photo_that_is_none_is_named(replica_with_eyes: Replica, shared_dir: Path) -> None:
    fine = photo(shared_dir, WOMAN, FRONTAL)
    pois = replica_with_eyes.pois

    broken = await refused(pois.CreatePoi(create(fine, b"not an image")))
    assert broken == ("INVALID_ARGUMENT", "IMAGE_UNDECODABLE", {"images[1]"})
    made = await pois.CreatePoi(create(fine))
    added = await refused(pois.AddReference(poi_pb2.AddReferenceRequest(poi=made.name, image=b"not an image")))
    assert added == ("INVALID_ARGUMENT", "IMAGE_UNDECODABLE", {"image"})


async def test_a_photo_needs_exactly_one_face(replica_with_eyes: Replica, shared_dir: Path) -> None:
    fine, pois = photo(shared_dir, WOMAN, FRONTAL), replica_with_eyes.pois

    for bad, reason in ((blank(), "NO_FACE"), (photo(shared_dir, BOTH, 40), "MULTIPLE_FACES")):
        with pytest.raises(grpc.aio.AioRpcError, match=r"images\[2\]") as raised:
            await pois.CreatePoi(create(fine, fine, bad))
        assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert (await refused(pois.CreatePoi(create(fine, fine, bad))))[1] == reason
    assert (await pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))).total_size == 0


async def test_photos_wait_for_nobody_when_the_embedding_service_is_away(redis_url: str) -> None:
    async with replica(redis_url, embed_target="127.0.0.1:1", embed_timeout=0.2) as one:
        code, reason, _ = await refused(one.pois.CreatePoi(create(blank())))
        assert (code, reason) == ("UNAVAILABLE", "EMBEDDING_UNAVAILABLE")
        await becomes(True, one.serving)
        await becomes(0, lambda: _enrolled(one))


async def test_a_repeated_enrolment_looks_at_no_photo_again(replica_with_eyes: Replica, shared_dir: Path) -> None:
    request = create(photo(shared_dir, WOMAN, FRONTAL), poi_id="", request_id="r1")
    first = await replica_with_eyes.pois.CreatePoi(request)
    first.ClearField("enrolment_report")

    assert await replica_with_eyes.pois.CreatePoi(request) == first
    assert await _enrolled(replica_with_eyes) == 1


async def _enrolled(one: Replica) -> int:
    return (await one.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))).total_size
