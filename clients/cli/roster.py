"""Who is to be imported: the rows of a CSV file, or the entries of a folder.

A CSV file has a header; the columns are (all but `photos` may be absent or empty)

    id               to take as the person's; made from name and photos otherwise
    display_name     what operators call the person; the id where absent
    photos           files, relative to the CSV file, `;` between
    severity         LOW, MEDIUM, HIGH
    notes, purpose, legal_reference, enrolled_by
    legal_basis      consent, contract, legal-obligation, vital-interests, public-task, legitimate-interests
    expire           90d, or ISO 8601
    watchlists       ids, `;` between

In a folder each sub-folder is a person with the photos in it, and each photo that lies in the folder itself one too.
"""

from __future__ import annotations

import csv
import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import typer
from poi.v1 import poi_pb2

from clients.cli.options import LegalBasis, Severity, an_end, timestamp
from clients.cli.photos import fitted
from clients.cli.session import Mesh, Refused, read_image
from mesh import names

_COLUMNS: Final = frozenset(
    (
        "id",
        "display_name",
        "photos",
        "severity",
        "notes",
        "purpose",
        "legal_basis",
        "legal_reference",
        "enrolled_by",
        "expire",
        "watchlists",
    )
)
_PHOTOS: Final = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"))
_MOST_PHOTOS: Final = 10
_NAMESPACE: Final = uuid.UUID("6f0c7a35-0f0b-4d0e-9d3c-52a4f1f0b6de")


@dataclass(frozen=True, slots=True)
class Entry:
    """One person to import, before any photo is opened."""

    row: str
    """For people to find it again: `line 7`, or the name in the folder."""
    fields: Mapping[str, str]
    photos: tuple[Path, ...]


def read(path: Path, defaults: Mapping[str, str]) -> list[Entry]:
    """Everybody in a CSV file or a folder; empty fields take the defaults. Raises Refused."""
    found = list(_folder(path) if path.is_dir() else _csv(path))
    if not found:
        raise Refused(f"{path}: nobody is in it")
    return [
        replace(one, fields={**defaults, **{key: text for key, text in one.fields.items() if text}}) for one in found
    ]


def request_of(
    entry: Entry, mesh: Mesh, *, allow_duplicate: bool, allow_disagreement: bool
) -> poi_pb2.CreatePoiRequest:
    """What enrols the entry, with ids that depend on its content alone. Raises Refused."""
    if not entry.photos:
        raise Refused("no photo")
    if len(entry.photos) > _MOST_PHOTOS:
        raise Refused(f"{len(entry.photos)} photos; {_MOST_PHOTOS} are the most")
    files = [read_image(path) for path in entry.photos]
    fields = entry.fields
    name = fields.get("display_name") or fields.get("id") or entry.row
    poi_id = fields.get("id") or _digest(name.encode(), *files)
    try:
        basis = fields.get("legal_basis", "").lower().replace("_", "-")
        person = poi_pb2.Poi(
            display_name=name,
            severity=Severity(fields.get("severity", "MEDIUM").upper()).number,
            notes=fields.get("notes", ""),
            purpose=fields.get("purpose", ""),
            legal_basis=LegalBasis(basis).number if basis else poi_pb2.LEGAL_BASIS_UNSPECIFIED,
            legal_reference=fields.get("legal_reference", ""),
            enrolled_by=fields.get("enrolled_by", ""),
            watchlists=[mesh.name(names.watchlist, each) for each in _parts(fields.get("watchlists", ""))],
        )
        if fields.get("expire"):
            person.expire_time.CopyFrom(timestamp(an_end(fields["expire"])))
    except (ValueError, typer.BadParameter) as error:
        raise Refused(str(error)) from None
    request = poi_pb2.CreatePoiRequest(
        parent=mesh.parent,
        poi=person,
        poi_id=poi_id,
        images=fitted(files),
        allow_duplicate=allow_duplicate,
        allow_disagreement=allow_disagreement,
    )
    request.request_id = str(uuid.uuid5(_NAMESPACE, _digest(request.SerializeToString(deterministic=True))))
    return request


def _folder(path: Path) -> Iterator[Entry]:
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}") from None
    for entry in entries:
        if entry.is_dir():
            photos = tuple(sorted(each for each in entry.iterdir() if _is_photo(each)))
            yield Entry(entry.name, {"id": _id_of(entry.name), "display_name": entry.name}, photos)
        elif _is_photo(entry):
            yield Entry(entry.name, {"id": _id_of(entry.stem), "display_name": entry.stem}, (entry,))


def _csv(path: Path) -> Iterator[Entry]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            unknown = sorted(set(reader.fieldnames or ()) - _COLUMNS)
            if "photos" not in (reader.fieldnames or ()) or unknown:
                wrong = f"unknown columns {', '.join(unknown)}" if unknown else "there is no column photos"
                raise Refused(f"{path}: {wrong}; there may be {', '.join(sorted(_COLUMNS))}")
            for row in reader:
                fields = {key: (text or "").strip() for key, text in row.items() if key in _COLUMNS}
                photos = tuple(path.parent / each for each in _parts(fields.pop("photos")))
                yield Entry(f"line {reader.line_num}", fields, photos)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{path}: {error}") from None


def _id_of(name: str) -> str:
    """An id that says the name where it can be one, and is another one for another name in any case."""
    if names.is_id(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9._:-]+", "-", name).strip("-._:")[:80]
    return f"{plain or 'poi'}-{_digest(name.encode())[:8]}"


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in _PHOTOS and not path.name.startswith(".")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _digest(*contents: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()
