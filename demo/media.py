"""Fetch the sample clips that the demo enrols people from: `make media`, or `python -m demo.media [DIRECTORY]`.

The clips are Intel's "sample-videos" (CC-BY 4.0). They are never part of this repository: media.json names their
official place and their sums, and a file that does not match its sum is not kept.
"""

from __future__ import annotations

import hashlib
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

MANIFEST = Path(__file__).with_name("media.json")
DIRECTORY = Path(__file__).resolve().parent.parent / "media"
TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 1 << 16


class Clip(BaseModel):
    """One file of the manifest."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Which clips there are, from where, and under which licence."""

    model_config = ConfigDict(frozen=True)

    source: str
    licence: str
    attribution: str
    files: tuple[Clip, ...]


class MediaError(Exception):
    """A clip could not be fetched; the message says which and why."""


def manifest() -> Manifest:
    """The clips that `make media` fetches."""
    return Manifest.model_validate_json(MANIFEST.read_bytes())


def is_intact(clip: Clip, directory: Path) -> bool:
    """Whether `directory` holds the clip with its right size and sum."""
    path = directory / clip.name
    if not path.is_file() or path.stat().st_size != clip.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == clip.sha256


def fetch(clip: Clip, directory: Path, progress: Progress) -> None:
    """Download one clip. It appears under its name only when its sum is right. Raises MediaError."""
    task = progress.add_task(clip.name, total=clip.bytes)
    part = directory / f"{clip.name}.part"
    digest = hashlib.sha256()
    received = 0
    try:
        with urllib.request.urlopen(clip.url, timeout=TIMEOUT_SECONDS) as answer, part.open("wb") as file:
            # One chunk past the right size is enough to know that it is another file.
            while received <= clip.bytes and (chunk := answer.read(CHUNK_BYTES)):
                digest.update(chunk)
                file.write(chunk)
                received += len(chunk)
                progress.update(task, completed=received)
        if digest.hexdigest() != clip.sha256:
            raise MediaError(f"{clip.url} is not the file it was: sha256 {digest.hexdigest()}, expected {clip.sha256}")
        part.rename(directory / clip.name)
    except OSError as error:
        raise MediaError(f"{clip.url} could not be fetched: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def download(directory: Path = DIRECTORY) -> None:
    """Make `directory` hold every clip of the manifest; intact ones are kept. Raises MediaError."""
    clips = manifest()
    console = Console(stderr=True)
    directory.mkdir(parents=True, exist_ok=True)
    missing = [clip for clip in clips.files if not is_intact(clip, directory)]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as progress:
        for clip in missing:
            fetch(clip, directory, progress)
    console.print(f"{len(clips.files)} clips in {directory}, {len(missing)} of them new ({clips.source})")
    console.print(f"{clips.attribution}; licence {clips.licence}")


def main(arguments: Sequence[str]) -> int:
    """Command line: fetch into ./media, or into the directory that is named. Returns the exit status."""
    try:
        download(Path(arguments[0]) if arguments else DIRECTORY)
    except MediaError as error:
        print(f"make media: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
