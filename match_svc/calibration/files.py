"""Tables as files: the one that is shipped with each model, and those of a site."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from match_svc.calibration.curves import Calibration
from match_svc.calibration.table import Table
from mesh.embeddings import FACE_MODEL


@cache
def shipped() -> Calibration:
    """That of the face model, made on LFW."""
    file = resources.files(__package__).joinpath(f"{FACE_MODEL}.json")
    return Calibration.of(Table.model_validate_json(file.read_bytes()))


def load(path: Path | None) -> Calibration:
    """That of a file; the shipped one for None. Raises ValueError, in one line, for a file that cannot be used."""
    if path is None:
        return shipped()
    table = read(path)
    try:
        return Calibration.of(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read(path: Path) -> Table:
    """The table of a file, for the face model. Raises ValueError, in one line."""
    try:
        table = Table.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        message = str(problem["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{path}: {f'{where}: ' if where else ''}{message}") from None
    if table.model != FACE_MODEL:
        raise ValueError(f"{path}: is of model {table.model}; faces are compared with {FACE_MODEL}")
    return table
