"""Model files: found, checked, fetched."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from embed_svc import models
from embed_svc._download import download
from embed_svc.models import ModelFile, ModelsError, Task, locate, main, manifest, problem

CONTENT = bytes(range(256)) * 1000


@dataclass
class Site:
    """A web server with files of our choice."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cut: int | None = None
    """Close the connection after so many bytes."""


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages.asked.append(self.path)
            content = pages.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: pages.cut])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        pages = Site(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield pages
        server.shutdown()
        thread.join()


def model_file(url: str, content: bytes = CONTENT) -> ModelFile:
    return ModelFile(
        name="m",
        task=Task.DETECTION,
        precision="FP16",
        file="m/FP16/m.bin",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        source_url=f"{url}/m.bin",
        preprocessing="none",
        license="Apache-2.0",
    )


def files_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_the_manifest_names_a_graph_and_weights_for_each_task() -> None:
    assert len(manifest().files) == 2 * len(Task)
    for task in Task:
        assert manifest().graph(task).file.removesuffix(".xml") == manifest().weights(task).file.removesuffix(".bin")
    assert all(file.source_url.startswith("https://") for file in manifest().files)


def test_the_real_models_are_whole(models_dir: Path) -> None:
    assert {file.file: problem(models_dir, file) for file in manifest().files} == {
        file.file: None for file in manifest().files
    }
    assert locate(models_dir) == models_dir


def test_a_named_directory_is_used_or_refused_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(ModelsError, match=r"6 of 6 files are not usable.*make models"):
        locate(tmp_path)


def test_the_first_directory_with_models_is_found(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "DEFAULT_DIRS", (tmp_path / "absent", models_dir))
    assert locate() == models_dir
    monkeypatch.setattr(models, "DEFAULT_DIRS", (tmp_path / "absent", tmp_path / "absent too"))
    with pytest.raises(ModelsError, match=r"no models in .*absent.*POI_MODELS_DIR"):
        locate()


def test_a_damaged_or_incomplete_set_is_refused(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in manifest().files:
        (tmp_path / file.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(models_dir / file.file, tmp_path / file.file)
    assert locate(tmp_path) == tmp_path
    weights = tmp_path / manifest().weights(Task.EMBEDDING).file
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    monkeypatch.setattr(models, "DEFAULT_DIRS", (tmp_path, models_dir))
    with pytest.raises(ModelsError, match=r"reidentification.*another SHA-256 sum \(1 of 6"):
        locate()
    weights.unlink()
    with pytest.raises(ModelsError, match=r"reidentification.*is missing \(1 of 6"):
        locate()


def test_a_file_is_fetched_once_and_checked(site: Site, tmp_path: Path) -> None:
    site.files["/m.bin"] = CONTENT
    file = model_file(site.url)
    download(tmp_path / "models", [file])
    assert (tmp_path / "models" / file.file).read_bytes() == CONTENT
    assert files_in(tmp_path) == ["models/m/FP16/m.bin"]
    download(tmp_path / "models", [file])
    assert site.asked == ["/m.bin"]


def test_a_damaged_file_is_fetched_again(site: Site, tmp_path: Path) -> None:
    site.files["/m.bin"] = CONTENT
    file = model_file(site.url)
    target = tmp_path / file.file
    target.parent.mkdir(parents=True)
    target.write_bytes(bytes(len(CONTENT)))
    download(tmp_path, [file])
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"more", b"<html>sign in</html>"])
def test_other_content_is_refused_and_leaves_nothing(site: Site, tmp_path: Path, content: bytes) -> None:
    site.files["/m.bin"] = content
    with pytest.raises(ModelsError, match=r"m\.bin gave \d+ bytes that are not"):
        download(tmp_path, [model_file(site.url)])
    assert files_in(tmp_path) == []


def test_a_connection_that_breaks_off_leaves_nothing(site: Site, tmp_path: Path) -> None:
    site.files["/m.bin"] = CONTENT
    site.cut = 1000
    with pytest.raises(ModelsError):
        download(tmp_path, [model_file(site.url)])
    assert files_in(tmp_path) == []


def test_a_missing_page_and_no_network_say_so(site: Site, tmp_path: Path, free_port: int) -> None:
    with pytest.raises(ModelsError, match=r"cannot be fetched \(Not Found\)"):
        download(tmp_path, [model_file(site.url)])
    with pytest.raises(ModelsError, match=r"Connection refused.*connect to a network, or copy the models"):
        download(tmp_path, [model_file(f"http://127.0.0.1:{free_port}")])
    assert files_in(tmp_path) == []


def test_the_command_fetches_what_the_manifest_lists(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.files["/m.bin"] = CONTENT
    monkeypatch.setattr(models, "manifest", lambda: models.Manifest(about="", files=(model_file(site.url),)))
    monkeypatch.setenv("POI_MODELS_DIR", str(tmp_path))
    assert main(["download"]) == 0
    assert files_in(tmp_path) == ["m/FP16/m.bin"]
    site.files.clear()
    assert main(["download"]) == 0, "nothing is missing, so nothing is asked for"
    assert main(["download", "--dir", str(tmp_path / "other")]) == 1
    assert capsys.readouterr().err.count("cannot be fetched") == 1


def test_the_command_is_content_with_a_copy_that_it_finds(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POI_MODELS_DIR", raising=False)
    monkeypatch.setattr(models, "DEFAULT_DIRS", (tmp_path, models_dir))
    assert main(["download"]) == 0
    assert files_in(tmp_path) == []
