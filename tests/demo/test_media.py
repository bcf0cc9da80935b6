"""Clips come whole and with the right sum, or not at all."""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from demo import media

CONTENT = b"a clip, more or less\n" * 10_000


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def official(tmp_path: Path) -> Iterator[str]:
    """A web server with one clip; its address."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "clip.gif").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def shared() -> Path:
    """The directory of shared data, where there is one."""
    path = Path(os.environ.get("POI_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    if not (path / "media").is_dir():
        pytest.skip(f"no shared clips in {path}")
    return path


def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, content: bytes) -> None:
    """Make the manifest name one clip at `url` that should hold `content`."""
    clip = {
        "name": "clip.gif",
        "url": url,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    manifest = tmp_path / "media.json"
    manifest.write_text(json.dumps({"source": "here", "licence": "CC0", "attribution": "tests", "files": [clip]}))
    monkeypatch.setattr(media, "MANIFEST", manifest)


def test_a_clip_is_fetched_once(official: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(tmp_path, monkeypatch, f"{official}/clip.gif", CONTENT)
    clip = tmp_path / "media" / "clip.gif"

    assert media.main([str(clip.parent)]) == 0
    first = clip.stat()
    assert media.main([str(clip.parent)]) == 0

    assert clip.read_bytes() == CONTENT
    assert (clip.stat().st_mtime_ns, clip.stat().st_ino) == (first.st_mtime_ns, first.st_ino)


def test_a_damaged_clip_is_fetched_again(official: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(tmp_path, monkeypatch, f"{official}/clip.gif", CONTENT)
    clip = tmp_path / "media" / "clip.gif"
    clip.parent.mkdir()
    clip.write_bytes(b"?" * len(CONTENT))

    assert media.main([str(clip.parent)]) == 0

    assert clip.read_bytes() == CONTENT


@pytest.mark.parametrize("expected", [b"another clip", CONTENT + b"and more", bytes(len(CONTENT))])
def test_another_file_than_the_listed_one_is_not_kept(
    official: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    expected: bytes,
) -> None:
    listed(tmp_path, monkeypatch, f"{official}/clip.gif", expected)

    assert media.main([str(tmp_path / "media")]) == 1

    assert list((tmp_path / "media").iterdir()) == []
    assert "is not the file it was" in capsys.readouterr().err


def test_an_absent_clip_is_one_clear_line(
    official: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(tmp_path, monkeypatch, f"{official}/absent.gif", CONTENT)

    assert media.main([str(tmp_path / "media")]) == 1

    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("make media:")]
    assert len(lines) == 1
    assert "absent.gif could not be fetched" in lines[0]


def test_the_shipped_manifest_names_official_places_and_sums() -> None:
    clips = media.manifest()

    assert clips.licence == "CC-BY-4.0"
    assert len(clips.files) == 7
    for clip in clips.files:
        assert clip.url.startswith("https://raw.githubusercontent.com/intel-iot-devkit/sample-videos/")
        assert clip.url.endswith(f"/{clip.name}")
        assert len(bytes.fromhex(clip.sha256)) == 32


def test_the_shipped_sums_are_those_of_the_shared_clips(shared: Path) -> None:
    clips = media.manifest().files

    assert [clip.name for clip in clips if not media.is_intact(clip, shared / "media")] == []
