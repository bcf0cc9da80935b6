"""Images from outside, in each place that decodes them: pixels, a picture, or the error that was promised."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import PIL.WebPImagePlugin
from poi.v1 import common_pb2

from alert_svc.evidence.picture import Subject, Undecodable, compose, crop_face
from embed_svc.images import decode
from history_svc.frames import is_jpeg
from match_svc.images import Framing, cut
from mesh.errors import InvalidArgument
from tests.fuzz.target import Finding, Target

PIL.Image.preinit()  # the other plugins, now that imports are instrumented
_MOST_PIXELS = 4_000_000
_BOXES = (
    common_pb2.BoundingBox(x=1, y=1, width=4, height=4),
    common_pb2.BoundingBox(x=-1e30, y=0, width=3e38, height=3e38),
    common_pb2.BoundingBox(x=float("nan"), y=float("inf"), width=-1, height=0),
    common_pb2.BoundingBox(x=7, y=7, width=1e-30, height=1e-30),
)


def _file(kind: str, **options: object) -> bytes:
    noise = np.random.default_rng(5).integers(0, 255, (9, 13, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


def _animated() -> bytes:
    frames = [PIL.Image.new("P", (5, 4), number) for number in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _turned() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # on its side
    return _file("JPEG", exif=exif)


FILES = (
    *(_file(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")),
    *(_file("JPEG", progressive=True), _file("WEBP", lossless=True), _file("PNG", interlace=1), _animated(), _turned()),
)


def _embed(data: bytes) -> None:
    try:
        pixels = decode(data, max_bytes=1 << 20, max_pixels=_MOST_PIXELS)
    except InvalidArgument as error:
        if error.reason not in ("IMAGE_TOO_LARGE", "IMAGE_UNDECODABLE") or not error.violations:
            raise Finding(f"not the error that is documented: {error.reason}") from error
        return
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not 0 < pixels.size <= 3 * _MOST_PIXELS:
        raise Finding(f"{pixels.shape} of {pixels.dtype}")
    # Enrolment cuts from photos that the embedding service has found a face in.
    for box in _BOXES:
        cut(data, box, Framing(64, 4096))


def _alert(data: bytes) -> None:
    for box in _BOXES:
        try:
            picture = compose(Subject(data, "camera", box, box), Subject(data, "reference", None, box))
            face = crop_face(data, box)
        except Undecodable:
            continue
        if not is_jpeg(picture) or (face is not None and not is_jpeg(face)):
            raise Finding("the picture is no JPEG")


def make() -> Target:
    """Each input goes everywhere."""

    def test(data: bytes) -> None:
        is_jpeg(data)
        _embed(data)
        _alert(data)

    return Target(test, FILES, largest=1 << 14)
