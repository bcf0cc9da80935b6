"""PoiService through its contract."""

import uuid
from typing import Any

import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, match_pb2, poi_pb2

from tests.match_svc.support import STORE, Replica, refused
from tests.support import embedding, in_days, unit, valid_poi
from tests.support.vectors import Vector


def create(face: Vector | None = None, **fields: Any) -> poi_pb2.CreatePoiRequest:
    """A request that is fine but for what a test changes."""
    given = {"parent": STORE, "poi": valid_poi(), "allow_disagreement": True, **fields}
    if not given.keys() & {"images", "embeddings"}:
        given["embeddings"] = [embedding(unit(1) if face is None else face)]
    return poi_pb2.CreatePoiRequest(**given)


async def test_a_new_person_has_everything_that_was_said(replica: Replica) -> None:
    expires = Timestamp(seconds=1_900_000_000)
    profile = valid_poi(
        name="stores/other/pois/other",
        display_name="Jane",
        severity=common_pb2.SEVERITY_HIGH,
        notes="tall",
        threshold=0.5,
        expire_time=expires,
        etag="mine",
    )
    faces = [embedding(unit(1), alignment=common_pb2.ALIGNMENT_ALIGNED), embedding(unit(2))]

    made = await replica.pois.CreatePoi(create(poi=profile, poi_id="p1", embeddings=faces))

    assert made.name == f"{STORE}/pois/p1"
    assert (made.display_name, made.severity, made.notes) == ("Jane", common_pb2.SEVERITY_HIGH, "tall")
    assert made.threshold == pytest.approx(0.5)
    assert made.expire_time == expires
    assert made.create_time == made.update_time
    assert made.create_time.seconds > 1_700_000_000
    assert made.etag not in ("", "mine")
    assert len({reference.name for reference in made.references}) == 2
    assert all(reference.name.startswith(f"{made.name}/references/") for reference in made.references)
    assert not any(reference.embeddings for reference in made.references), "embeddings are in the FULL view only"
    full = await replica.pois.GetPoi(poi_pb2.GetPoiRequest(name=made.name, view=poi_pb2.POI_VIEW_FULL))
    assert [list(reference.embeddings) for reference in full.references] == [[face] for face in faces]
    made.ClearField("enrolment_report")
    assert await replica.pois.GetPoi(poi_pb2.GetPoiRequest(name=made.name)) == made


async def test_defaults_of_a_new_person(replica: Replica) -> None:
    made = await replica.pois.CreatePoi(create())

    assert made.severity == common_pb2.SEVERITY_MEDIUM
    assert not made.HasField("threshold")
    assert len(made.name.rpartition("/")[2]) == 16


async def test_an_id_is_taken_once(replica: Replica) -> None:
    await replica.pois.CreatePoi(create(poi_id="p1"))

    assert await refused(replica.pois.CreatePoi(create(poi_id="p1"))) == ("ALREADY_EXISTS", "RESOURCE_EXISTS", set())


NAN, INF = np.full(256, np.nan, np.float32), np.full(256, np.inf, np.float32)


@pytest.mark.parametrize(
    ("bad", "code", "field"),
    [
        (embedding(NAN), "INVALID_ARGUMENT", "embeddings[1].vector"),
        (embedding(INF), "INVALID_ARGUMENT", "embeddings[1].vector"),
        (embedding(unit(1) * 2), "INVALID_ARGUMENT", "embeddings[1].vector"),
        (embedding(np.zeros(256, np.float32)), "INVALID_ARGUMENT", "embeddings[1].vector"),
        (embedding(unit(1, 128)), "INVALID_ARGUMENT", "embeddings[1].vector"),
        (common_pb2.Embedding(model="face-reidentification-retail-0095"), "INVALID_ARGUMENT", "embeddings[1]"),
        (embedding(unit(1), model="person-reidentification-retail-0287"), "FAILED_PRECONDITION", None),
    ],
    ids=["nan", "infinite", "not normalised", "zero", "short", "empty", "of another model"],
)
async def test_a_bad_embedding_enrols_nobody_and_is_named(
    replica: Replica, bad: common_pb2.Embedding, code: str, field: str | None
) -> None:
    request = create(embeddings=[embedding(unit(1)), bad])

    told, reason, fields = await refused(replica.pois.CreatePoi(request))

    assert (told, fields) == (code, {field} if field else set())
    assert reason == ("INVALID_EMBEDDING" if field else "MODEL_MISMATCH")
    assert (await replica.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))).total_size == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"poi": valid_poi("")}, "poi.display_name"),
        ({"poi": valid_poi("  ")}, "poi.display_name"),
        ({"poi": valid_poi(threshold=0.1)}, "poi.threshold"),
        ({"poi": valid_poi(expire_time=Timestamp(seconds=1 << 60))}, "poi.expire_time"),
        ({"poi": valid_poi(expire_time=in_days(-1))}, "poi.expire_time"),
        ({"poi": valid_poi(expire_time=None)}, "poi.expire_time"),
        ({"poi": valid_poi(purpose=" ")}, "poi.purpose"),
        ({"poi": valid_poi(legal_basis=poi_pb2.LEGAL_BASIS_UNSPECIFIED)}, "poi.legal_basis"),
        ({"poi": valid_poi(enrolled_by="")}, "poi.enrolled_by"),
        ({"parent": "store-1"}, "parent"),
        ({"poi_id": "no spaces"}, "poi_id"),
    ],
)
async def test_a_wrong_field_is_named(replica: Replica, change: dict[str, Any], field: str) -> None:
    code, _, fields = await refused(replica.pois.CreatePoi(create(**change)))

    assert (code, fields) == ("INVALID_ARGUMENT", {field})


async def test_a_repeated_request_makes_one_person(replica: Replica) -> None:
    request = create(request_id=str(uuid.uuid4()))

    first = await replica.pois.CreatePoi(request)
    again = await replica.pois.CreatePoi(request)

    first.ClearField("enrolment_report")  # of what was checked; for a repeat nothing is
    assert again == first
    listed = await replica.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))
    assert listed.total_size == 1


async def test_a_request_id_is_not_for_another_request(replica: Replica) -> None:
    await replica.pois.CreatePoi(create(request_id="r1"))

    refusal = await refused(replica.pois.CreatePoi(create(unit(2), request_id="r1")))

    assert refusal == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED", {"request_id"})


async def test_a_repeated_reference_is_added_once(replica: Replica) -> None:
    made = await replica.enrol("p1", unit(1))
    request = poi_pb2.AddReferenceRequest(poi=made.name, embedding=embedding(unit(2)), request_id="r1")
    request.allow_disagreement = True

    first = await replica.pois.AddReference(request)
    again = await replica.pois.AddReference(request)

    first.ClearField("enrolment_report")

    assert again == first
    assert len(again.references) == 2


@pytest.mark.parametrize(
    ("size", "page_bytes", "expected"),
    [
        (2, 1 << 20, [["p4", "p3"], ["p2", "p1"], ["p0"]]),
        (5, 1 << 20, [["p4", "p3", "p2", "p1", "p0"]]),
        (5, 1, [["p4"], ["p3"], ["p2"], ["p1"], ["p0"]]),  # pages end early when persons are large
    ],
)
async def test_pages_are_newest_first(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, size: int, page_bytes: int, expected: list[list[str]]
) -> None:
    monkeypatch.setattr("match_svc.service._PAGE_BYTES", page_bytes)
    for number in range(5):
        await replica.enrol(f"p{number}", unit(number))
    await replica.pois.UpdatePoi(
        poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=f"{STORE}/pois/p0", notes="changed, yet no newer"))
    )
    request = poi_pb2.ListPoisRequest(parent=STORE, page_size=size)
    pages = []
    while True:
        page = await replica.pois.ListPois(request)
        pages.append([poi.display_name for poi in page.pois])
        assert page.total_size == 5
        assert not any(reference.embeddings for poi in page.pois for reference in poi.references)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert pages == expected


async def test_a_page_token_belongs_to_its_query(replica: Replica) -> None:
    for number in range(2):
        await replica.enrol(f"p{number}", unit(number))
    page = await replica.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE, page_size=1))

    request = poi_pb2.ListPoisRequest(parent="stores/other", page_token=page.next_page_token)

    assert (await refused(replica.pois.ListPois(request)))[1:] == ("INVALID_PAGE_TOKEN", {"page_token"})


async def test_stores_do_not_see_each_other(replica: Replica) -> None:
    await replica.pois.CreatePoi(create(parent="stores/other", poi_id="p1"))

    assert (await replica.pois.ListPois(poi_pb2.ListPoisRequest(parent=STORE))).total_size == 0
    assert (await refused(replica.pois.GetPoi(poi_pb2.GetPoiRequest(name=f"{STORE}/pois/p1"))))[0] == "NOT_FOUND"
    assert await replica.who(unit(1)) == []


async def test_an_update_changes_what_its_mask_names(replica: Replica) -> None:
    made = await replica.enrol("p1", unit(1), notes="old", threshold=0.5, severity=common_pb2.SEVERITY_HIGH)
    wanted = poi_pb2.Poi(name=made.name, display_name="New", notes="new")

    changed = await replica.pois.UpdatePoi(
        poi_pb2.UpdatePoiRequest(poi=wanted, update_mask=FieldMask(paths=["notes", "threshold"]))
    )

    assert (changed.display_name, changed.notes) == ("p1", "new")
    assert not changed.HasField("threshold"), "named in the mask and absent: cleared"
    assert changed.severity == common_pb2.SEVERITY_HIGH
    assert changed.etag != made.etag
    assert changed.update_time.ToNanoseconds() > made.update_time.ToNanoseconds()
    assert changed.create_time == made.create_time


async def test_an_update_without_a_mask_changes_what_is_set(replica: Replica) -> None:
    made = await replica.enrol("p1", unit(1), notes="old", threshold=0.5)

    changed = await replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=made.name, notes="new")))

    assert (changed.display_name, changed.notes, changed.threshold) == ("p1", "new", 0.5)


async def test_a_full_update_takes_all_fields(replica: Replica) -> None:
    made = await replica.enrol("p1", unit(1), notes="old", threshold=0.5)
    wanted = valid_poi("New", name=made.name)

    changed = await replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=wanted, update_mask=FieldMask(paths=["*"])))

    assert (changed.display_name, changed.notes, changed.HasField("threshold")) == ("New", "", False)
    assert len(changed.references) == 1


@pytest.mark.parametrize("path", ["name", "references", "etag", "create_time", "nonsense", "expire_time.seconds"])
async def test_what_cannot_be_changed_is_refused(replica: Replica, path: str) -> None:
    made = await replica.enrol("p1", unit(1))
    request = poi_pb2.UpdatePoiRequest(poi=made, update_mask=FieldMask(paths=[path]))

    assert (await refused(replica.pois.UpdatePoi(request)))[1:] == ("INVALID_UPDATE_MASK", {"update_mask"})


async def test_an_etag_that_is_old_changes_nothing(replica: Replica) -> None:
    made = await replica.enrol("p1", unit(1))
    await replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=made.name, notes="theirs")))
    late = poi_pb2.Poi(name=made.name, notes="mine", etag=made.etag)

    update = await refused(replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=late)))
    delete = await refused(replica.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=made.name, etag=made.etag)))

    assert update == delete == ("ABORTED", "ETAG_MISMATCH", set())
    assert (await replica.pois.GetPoi(poi_pb2.GetPoiRequest(name=made.name))).notes == "theirs"


async def test_references_come_and_go_but_the_last(replica: Replica) -> None:
    made = await replica.enrol("p1", unit(1))
    first = made.references[0].name

    add = poi_pb2.AddReferenceRequest(poi=made.name, embedding=embedding(unit(2)), allow_disagreement=True)
    two = await replica.pois.AddReference(add)
    assert await replica.who(unit(2)) == ["p1"]
    one = await replica.pois.DeleteReference(poi_pb2.DeleteReferenceRequest(name=first))

    assert len(two.references) == 2
    assert [reference.name for reference in one.references] == [two.references[1].name]
    assert await replica.who(unit(1)) == []
    last = poi_pb2.DeleteReferenceRequest(name=one.references[0].name)
    assert (await refused(replica.pois.DeleteReference(last)))[:2] == ("FAILED_PRECONDITION", "LAST_REFERENCE")
    gone = poi_pb2.DeleteReferenceRequest(name=first)
    assert (await refused(replica.pois.DeleteReference(gone)))[0] == "NOT_FOUND"


async def test_what_does_not_exist_is_not_found(replica: Replica) -> None:
    name = f"{STORE}/pois/nobody"
    add = poi_pb2.AddReferenceRequest(poi=name, embedding=embedding(unit(1)))

    for call in (
        replica.pois.GetPoi(poi_pb2.GetPoiRequest(name=name)),
        replica.pois.UpdatePoi(poi_pb2.UpdatePoiRequest(poi=poi_pb2.Poi(name=name, notes="x"))),
        replica.pois.DeletePoi(poi_pb2.DeletePoiRequest(name=name)),
        replica.pois.AddReference(add),
        replica.pois.DeleteReference(poi_pb2.DeleteReferenceRequest(name=f"{name}/references/r")),
    ):
        assert (await refused(call))[:2] == ("NOT_FOUND", "RESOURCE_NOT_FOUND")


async def test_settings_of_a_store(replica: Replica) -> None:
    name = f"{STORE}/matchSettings"
    first = await replica.match.GetMatchSettings(match_pb2.GetMatchSettingsRequest(name=name))
    request = match_pb2.UpdateMatchSettingsRequest(match_settings=match_pb2.MatchSettings(name=name, threshold=0.6))
    changed = await replica.match.UpdateMatchSettings(request)
    kept = await replica.match.GetMatchSettings(match_pb2.GetMatchSettingsRequest(name=name))
    request.match_settings.ClearField("threshold")
    request.update_mask.paths.append("threshold")
    cleared = await replica.match.UpdateMatchSettings(request)

    assert [round(one.threshold, 3) for one in (first, changed, kept, cleared)] == [0.45, 0.6, 0.6, 0.45]


async def test_wrong_settings_are_refused(replica: Replica) -> None:
    for settings, mask, field in (
        (match_pb2.MatchSettings(name=f"{STORE}/matchSettings", threshold=1.5), [], "match_settings.threshold"),
        (match_pb2.MatchSettings(name=f"{STORE}/matchSettings", threshold=0.5), ["name"], "update_mask"),
        (match_pb2.MatchSettings(name="matchSettings", threshold=0.5), [], "match_settings.name"),
    ):
        request = match_pb2.UpdateMatchSettingsRequest(match_settings=settings, update_mask=FieldMask(paths=mask))
        code, _, fields = await refused(replica.match.UpdateMatchSettings(request))
        assert (code, fields) == ("INVALID_ARGUMENT", {field})
