"""What enrolment found on photos, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from poi.v1 import poi_pb2

from clients.cli import output

_COLUMNS: Final = ("PHOTO", "SCORE", "WIDTH", "SHARPNESS", "YAW", "PITCH", "ROLL", "CONFIDENCE", "FOUND")


def show(report: poi_pb2.EnrolmentReport, photos: Sequence[str]) -> None:
    """Each photo, then who looks alike and who does not, then the verdict."""
    output.print_table(_COLUMNS, [_row(face, photos[face.index]) for face in report.faces], nothing="")
    for pair in report.disagreements:
        other = output.short(pair.reference) if pair.reference else photos[pair.other_index]
        output.print_line(f"{photos[pair.index]} looks like somebody else than {other}: cosine {pair.similarity:.2f}")
    for one in report.duplicates:
        alike = output.short(one.poi)
        output.print_line(f"{photos[one.index]} looks like {alike}, who is enrolled: cosine {one.similarity:.2f}")
    output.print_line("would be enrolled" if report.accepted else "would be refused")


def _row(face: poi_pb2.FaceReport, photo: str) -> tuple[object, ...]:
    found = "; ".join(f"{problem.reason}: {problem.description}" for problem in face.problems) or "fine"
    if not face.HasField("quality"):
        return (photo, "", "", "", "", "", "", "", found)
    quality = face.quality
    angles = (f"{angle:+.0f}" for angle in (quality.yaw_degrees, quality.pitch_degrees, quality.roll_degrees))
    return (
        photo,
        f"{quality.score:.2f}",
        f"{quality.face_width_px:.0f} px",
        f"{quality.sharpness:.2f}",
        *angles,
        f"{quality.detector_confidence:.2f}",
        found,
    )
