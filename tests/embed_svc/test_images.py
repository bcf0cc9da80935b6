"""Image files, friendly and hostile."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_svc import images
from mesh import errors

LIMITS = {"max_bytes": 1 << 20, "max_pixels": 50_000_000}


def picture(height: int = 60, width: int = 80) -> Any:
    """Black on the left, white on the right, red along the top."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    image[: height // 4] = (0, 0, 255)
    return image


def encoded(suffix: str, image: Any) -> bytes:
    return bytes(cv2.imencode(suffix, image)[1])


def png_header(width: int, height: int) -> bytes:
    """A PNG with next to nothing behind its header."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(1000))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def webp_header(width: int, height: int) -> bytes:
    """A WebP with two tiny frames on a canvas of that size."""
    file = io.BytesIO()
    red, blue = (PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    red.save(file, "WEBP", save_all=True, append_images=[blue])
    data = bytearray(file.getvalue())
    canvas = data.index(b"VP8X") + 12
    data[canvas : canvas + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame + b"\x02\x00;"


def refusal(data: bytes, **limits: int) -> errors.InvalidArgument:
    with pytest.raises(errors.InvalidArgument) as caught:
        images.decode(data, **{**LIMITS, **limits})
    assert [field for field, _ in caught.value.violations] == ["image"]
    return caught.value


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp"])
def test_each_format_decodes_to_bgr(suffix: str) -> None:
    pixels = images.decode(encoded(suffix, picture()), **LIMITS)
    assert pixels.shape == (60, 80, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[50, 10], (0, 0, 0), atol=12)
    np.testing.assert_allclose(pixels[50, 70], (255, 255, 255), atol=12)
    blue, green, red = pixels[5, 40].tolist()
    assert red > 200
    assert max(blue, green) < 60


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "I;16"])
def test_other_colour_modes_become_bgr(mode: str) -> None:
    file = io.BytesIO()
    PIL.Image.new(mode, (40, 30)).save(file, "JPEG" if mode == "CMYK" else "PNG")
    assert images.decode(file.getvalue(), **LIMITS).shape == (30, 40, 3)


def test_only_the_first_frame_of_an_animation_counts() -> None:
    file = io.BytesIO()
    red, blue = (PIL.Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    red.save(file, "GIF", save_all=True, append_images=[blue])
    assert images.decode(file.getvalue(), **LIMITS)[15, 20].tolist() == [0, 0, 255]


def test_exif_orientation_turns_the_image_upright() -> None:
    file = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    PIL.Image.fromarray(picture()[..., ::-1]).save(file, "JPEG", exif=exif, quality=95)
    pixels = images.decode(file.getvalue(), **LIMITS)
    assert pixels.shape == (80, 60, 3)
    assert pixels[40, 55].tolist()[2] > 200, "the red top is now on the right"


@pytest.mark.parametrize("header", [png_header, webp_header, gif_header])
@pytest.mark.parametrize("size", [(10_000, 5_001), (16_000, 16_000)])
def test_a_bomb_is_refused_by_its_header(header: Any, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("nothing may be decoded"))
    assert refusal(header(*size)).reason == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("length", [0xFCFF0173, 0x7FFFFFFF, 5000])
def test_a_png_with_a_chunk_beyond_its_end_is_refused_unread(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder made room for it first: 249 bytes, which fuzzing found, took 4 GB."""
    data = bytearray(encoded(".png", picture(9, 13)))
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = struct.pack(">I", length)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("nothing may be decoded"))

    assert refusal(bytes(data)).reason == "IMAGE_UNDECODABLE"


def test_what_follows_the_end_of_a_png_is_left_alone() -> None:
    data = encoded(".png", picture()) + b"\xff" * 20
    assert images.decode(data, **LIMITS).shape == (60, 80, 3)


def test_a_real_image_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    data = encoded(".png", np.zeros((1000, 2000, 3), np.uint8))
    assert images.decode(data, **{**LIMITS, "max_pixels": 2_000_000}).shape == (1000, 2000, 3)
    assert refusal(data, max_pixels=1_999_999).reason == "IMAGE_TOO_LARGE"


def test_a_file_with_too_many_bytes_is_refused() -> None:
    data = encoded(".png", picture())
    assert refusal(data, max_bytes=len(data) - 1).reason == "IMAGE_TOO_LARGE"


def test_the_decoder_has_a_limit_of_its_own() -> None:
    # In a process of its own: OpenCV reads the limit once, when it is first loaded.
    program = (
        "import sys, embed_svc, cv2, numpy\n"
        "try: cv2.imdecode(numpy.frombuffer(sys.stdin.buffer.read(), numpy.uint8), cv2.IMREAD_COLOR)\n"
        "except cv2.error as error: sys.exit('CV_IO_MAX_IMAGE_PIXELS' not in str(error))\n"
        "sys.exit('decoded')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=png_header(10_000, 8_901),
        env=environment,
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_refused(suffix: str, part: float) -> None:
    rng = np.random.default_rng(1)
    data = encoded(suffix, rng.integers(0, 255, (120, 160, 3), np.uint8))
    assert refusal(data[: int(len(data) * part)]).reason == "IMAGE_UNDECODABLE"


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"%PDF-1.7 not an image", b"<svg/>", bytes(1000), png_header(0, 5)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert refusal(data).reason == "IMAGE_UNDECODABLE"


def test_formats_that_nobody_needs_are_refused() -> None:
    file = io.BytesIO()
    PIL.Image.new("RGB", (40, 30)).save(file, "TIFF")
    assert refusal(file.getvalue()).reason == "IMAGE_UNDECODABLE"


@given(
    suffix=st.sampled_from([".jpg", ".png", ".webp", ".gif", ".bmp"]),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=20),
)
@settings(max_examples=150, deadline=None)
def test_damage_gives_an_image_or_a_refusal_and_nothing_else(suffix: str, damage: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(suffix, picture()))
    for place, value in damage:
        data[int(place * len(data))] = value
    pixels = None
    with contextlib.suppress(errors.InvalidArgument):
        pixels = images.decode(bytes(data), **LIMITS)
    assert pixels is None or (pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8)
