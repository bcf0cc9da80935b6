from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import pytest
from typer.testing import CliRunner, Result

from clients.cli.__main__ import app
from mesh.local import Mesh
from tests.support import PATIENCE


@dataclass(frozen=True)
class Poi:
    """The `poi` command, told where the servers are."""

    mesh: Mesh
    env: dict[str, str]

    def __call__(self, *arguments: object, **env: str) -> Result:
        return CliRunner().invoke(app, [str(each) for each in arguments], env={**self.env, **env}, prog_name="poi")

    def output(self, *arguments: object) -> str:
        """What a command that works prints."""
        result = self(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: object) -> Any:
        return json.loads(self.output(*arguments, "--json"))

    def fails(self, *arguments: object, **env: str) -> str:
        """The one line that a command that cannot do its work prints."""
        result = self(*arguments, **env)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("poi: ")
        return line.removeprefix("poi: ")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person would not wait as long as a busy machine may take."""
    monkeypatch.setattr("clients.cli.session._ANSWER_SECONDS", PATIENCE)
    monkeypatch.setattr("clients.cli.operations._HEALTH_SECONDS", 8.0)  # one waits for a server that is not there


@pytest.fixture(scope="module")
def poi(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Poi]:
    """The command, and a whole mesh for it."""
    data_dir = tmp_path_factory.mktemp("mesh")
    env = {"POI_MODELS_DIR": str(models_dir), "POI_EMBED_CACHE_DIR": str(data_dir / "openvino")}
    with Mesh(data_dir, env=env) as mesh:
        yield Poi(mesh, {f"POI_{name.upper()}_TARGET": mesh.target(name) for name in mesh.services})


@pytest.fixture(scope="module")
def photos(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photos of the woman, the man, and both."""
    made, directory = {}, tmp_path_factory.mktemp("photos")
    for name, clip in {"woman": "female", "man": "male", "both": "female-and-male"}.items():
        with av.open(str(shared_dir / "media" / f"head-pose-face-detection-{clip}.gif")) as frames:
            image = next(frame for number, frame in enumerate(frames.decode(video=0)) if number == 20)
        made[name] = directory / f"{name}.jpg"
        cv2.imwrite(str(made[name]), image.to_ndarray(format="bgr24"))
    return made
