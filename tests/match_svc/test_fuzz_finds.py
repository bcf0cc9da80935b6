"""What fuzzing found in the requests of the match service, and in what it is given."""

from __future__ import annotations

import math

import cv2
import numpy as np
from poi.v1 import common_pb2, poi_pb2

from match_svc.images import Framing, cut
from tests.match_svc.support import Replica, refused
from tests.support import embedding, unit


async def test_an_alignment_that_nobody_knows_is_refused(replica: Replica) -> None:
    person = await replica.enrol("p1", unit(1))
    face = embedding(unit(2))
    face.alignment = 99  # type: ignore[assignment]

    code, reason, fields = await refused(
        replica.pois.AddReference(poi_pb2.AddReferenceRequest(poi=person.name, embedding=face))
    )

    assert (code, reason, fields) == ("INVALID_ARGUMENT", "INVALID_EMBEDDING", {"embedding.alignment"})


def test_a_face_box_of_no_numbers_gives_no_picture() -> None:
    photo = bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1])

    assert cut(photo, common_pb2.BoundingBox(x=math.nan, y=1, width=4, height=4), Framing(64, 4096)) is None
