"""A case file that is not what its manifest says is refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from alert_svc.export.archive import MANIFEST, Archive
from clients.cli.export import check
from clients.cli.session import Refused
from tests.support import moment

FILES = {"alert.json": b"{}\n", "frame.jpg": bytes(1000)}


@pytest.fixture
def inside() -> dict[str, bytes]:
    """The files of a good case file."""
    archive = Archive(moment(0))
    for name, content in FILES.items():
        archive.add(name, content)
    archive.miss("face.jpg", "NO_FRAME", "there is none")
    about = {"alert": "stores/s/alerts/a", "export": "e", "actor": "ann"}
    with archive.finish(about) as file, zipfile.ZipFile(io.BytesIO(file.read())) as whole:
        return {name: whole.read(name) for name in whole.namelist()}


def written(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_good_one_is_accepted(tmp_path: Path, inside: dict[str, bytes]) -> None:
    manifest = check(written(tmp_path / "case.zip", inside))
    assert [one.name for one in manifest.files] == list(FILES)
    assert [(one.name, one.reason) for one in manifest.missing] == [("face.jpg", "NO_FRAME")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"frame.jpg": bytes(999) + b"\1"}, "frame.jpg in the case file is not what its manifest says"),
        ({"frame.jpg": bytes(999)}, "frame.jpg in the case file is not what its manifest says"),
        ({"frame.jpg": None}, "does not hold just the files"),
        ({"more.jpg": b""}, "does not hold just the files"),
        ({MANIFEST: None}, "is damaged"),
        ({MANIFEST: b"{}"}, "is damaged"),
    ],
    ids=["changed", "shorter", "gone", "more", "no manifest", "empty manifest"],
)
def test_a_changed_one_is_refused(
    tmp_path: Path, inside: dict[str, bytes], change: Mapping[str, bytes | None], why: str
) -> None:
    changed = {name: content for name, content in {**inside, **change}.items() if content is not None}
    with pytest.raises(Refused, match=why):
        check(written(tmp_path / "case.zip", changed))


def test_one_that_was_cut_off_is_refused(tmp_path: Path, inside: dict[str, bytes]) -> None:
    path = written(tmp_path / "case.zip", inside)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(Refused, match="is damaged"):
        check(path)
