"""The model files: what they are, where they lie, whether they are whole, and how to get them.

`models.json` lists them with sizes, SHA-256 sums and official addresses. `python -m embed_svc.models download` fetches
what is missing; `locate` finds them at start.
"""

import argparse
import functools
import hashlib
import os
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_MANIFEST = Path(__file__).with_name("models.json")
_ROOT = Path(__file__).resolve().parents[1]
DEFAULT_DIRS = (_ROOT / "models", _ROOT.parent / "shared" / "models")
"""Where models are looked for when no directory is named: what `make models` fetched, else a shared copy."""


class ModelsError(Exception):
    """Models are missing, damaged or cannot be fetched. The text is one line that says what to do."""


class Task(Enum):
    """What a model does."""

    DETECTION = "face_detection"
    LANDMARKS = "face_landmarks"
    EMBEDDING = "face_embedding"


class ModelFile(BaseModel):
    """One file of a model: an OpenVINO IR is an .xml with the graph and a .bin with the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The model's name in the Open Model Zoo; for the embedder also the name that embeddings carry."""
    task: Task
    precision: str
    """Of the weights: FP16."""
    file: str
    """Path under the models directory."""
    bytes: int
    sha256: str
    """In hex."""
    source_url: str
    preprocessing: str
    """What the network expects and gives, from its model card."""
    license: str
    """SPDX identifier."""


class Manifest(BaseModel):
    """All files that the service needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    files: tuple[ModelFile, ...]

    def graph(self, task: Task) -> ModelFile:
        """The .xml of the model for a task."""
        return self._only(task, ".xml")

    def weights(self, task: Task) -> ModelFile:
        """The .bin of the model for a task."""
        return self._only(task, ".bin")

    def _only(self, task: Task, suffix: str) -> ModelFile:
        (found,) = (file for file in self.files if file.task is task and file.file.endswith(suffix))
        return found


@functools.cache
def manifest() -> Manifest:
    """The manifest that ships with the service."""
    return Manifest.model_validate_json(_MANIFEST.read_bytes())


def problem(directory: Path, file: ModelFile) -> str | None:
    """What is wrong with a file in a models directory (in a few words), or None when it is whole."""
    path = directory / file.file
    try:
        if path.stat().st_size != file.bytes:
            return "has another size"
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if digest == file.sha256 else "has another SHA-256 sum"


def locate(configured: Path | None = None) -> Path:
    """The directory that holds every model whole: `configured`, or else the first of `DEFAULT_DIRS` that has any.

    Every file is read and its sum checked (4 MB, a few milliseconds). Raises ModelsError.
    """
    for directory in (configured,) if configured else DEFAULT_DIRS:
        problems = {file.file: problem(directory, file) for file in manifest().files}
        bad = [f"{name} {what}" for name, what in problems.items() if what]
        if not bad:
            return directory
        if configured or len(bad) < len(problems) or any("missing" not in line for line in bad):
            raise ModelsError(
                f"{directory}: {bad[0]} ({len(bad)} of {len(problems)} files are not usable): run `make models`"
            )
    searched = " and ".join(str(directory) for directory in DEFAULT_DIRS)
    raise ModelsError(f"no models in {searched}: run `make models`, or name their directory in POI_MODELS_DIR")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: `download [--dir DIR]`; 0 when every file is whole, 1 after a line that says why not."""
    from embed_svc._download import download

    parser = argparse.ArgumentParser(prog="python -m embed_svc.models", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser(
        "download", help="fetch what is missing, check everything"
    )
    command.add_argument(
        "--dir", type=Path, help="where to (default: POI_MODELS_DIR, else ./models unless a copy is found)"
    )
    chosen: Path | None = parser.parse_args(argv).dir
    if chosen is None and (configured := os.environ.get("POI_MODELS_DIR")):
        chosen = Path(configured)
    try:
        download(chosen or _existing() or DEFAULT_DIRS[0], manifest().files)
    except ModelsError as error:
        sys.stderr.write(f"embed_svc.models: {error}\n")
        return 1
    return 0


def _existing() -> Path | None:
    try:
        return locate()
    except ModelsError:
        return None


if __name__ == "__main__":
    # Run as a program this file is a second module beside embed_svc.models, with classes of its own: use the real one.
    from embed_svc.models import main as real_main

    raise SystemExit(real_main())
