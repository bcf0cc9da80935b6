"""What the eraser asks of every service that keeps something of people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import erasure_pb2


def seeds(store: str, *, start: int = 1_763_629_200, end: int = 1_763_629_260) -> Mapping[str, Iterable[Message]]:
    """Of TraceService: somebody who is known by everything there is, seen on camera from `start` to `end`."""
    subject = erasure_pb2.TraceSubject(
        poi=f"{store}/pois/p1",
        references=[f"{store}/pois/p1/references/r1"],
        appearances=[f"{store}/appearances/{'0' * 32}"],
        frames=[f"{store}/frames/{'0' * 32}"],
        tracks=[
            erasure_pb2.TrackSpan(
                camera=f"{store}/cameras/c1",
                object_id="7",
                start_time=Timestamp(seconds=start),
                end_time=Timestamp(seconds=end),
            )
        ],
    )
    return {
        "FindTraces": [
            erasure_pb2.FindTracesRequest(parent=store, subject=subject),
            erasure_pb2.FindTracesRequest(
                parent=store, subject=subject, by_references=True, photos=[b"x"], min_similarity=0.5
            ),
        ],
        "EraseTraces": [
            erasure_pb2.EraseTracesRequest(
                parent=store, subject=subject, erasure=f"{store}/personErasures/e1", purge=purge
            )
            for purge in ("", "1")
        ],
    }
