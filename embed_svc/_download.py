"""Fetches model files from their official addresses: with progress, checked, never half a file."""

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from embed_svc.models import ModelFile, ModelsError, problem

_CHUNK = 1 << 16
_TIMEOUT_SECONDS = 30.0
_ELSE = "copy the models from a machine that has them and name their directory in POI_MODELS_DIR"


def download(directory: Path, files: Sequence[ModelFile]) -> None:
    """Makes every file lie whole in `directory`; those that do already are left alone. Raises ModelsError."""
    missing = [file for file in files if problem(directory, file)]
    console = Console(stderr=True)
    if not missing:
        console.print(f"{len(files)} model files are in {directory}, sums checked")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        for file in missing:
            _fetch(directory / file.file, file, progress, progress.add_task(Path(file.file).name, total=file.bytes))
    console.print(f"{len(missing)} model files fetched to {directory}, sums checked")


def _fetch(target: Path, file: ModelFile, progress: Progress, task: TaskID) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the same directory, so that the rename is atomic.
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as part:
            partial = Path(part.name)
            try:
                digest, size = hashlib.sha256(), 0
                with urllib.request.urlopen(file.source_url, timeout=_TIMEOUT_SECONDS) as response:
                    while chunk := response.read(_CHUNK):
                        size += len(chunk)
                        if size > file.bytes:
                            break
                        digest.update(chunk)
                        part.write(chunk)
                        progress.update(task, completed=size)
                if size != file.bytes or digest.hexdigest() != file.sha256:
                    raise ModelsError(
                        f"{file.source_url} gave {size} bytes that are not what models.json says: try again, or {_ELSE}"
                    )
                part.flush()
                os.fsync(part.fileno())
                os.chmod(partial, 0o644)  # a temporary file is private to its owner
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise ModelsError(
            f"{file.source_url} cannot be fetched ({getattr(error, 'reason', error)}): connect to a network, or {_ELSE}"
        ) from error
    except OSError as error:
        raise ModelsError(f"{target} cannot be written ({error.strerror or error})") from error
