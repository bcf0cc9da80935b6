"""What became of the rows of an import, kept in a file line by line, so that the next run knows."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from poi.v1 import poi_pb2

from clients.cli.session import Refused, explain
from mesh.errors import MeshError

_COMPARED: Final = (
    "display_name",
    "severity",
    "notes",
    "purpose",
    "legal_basis",
    "legal_reference",
    "enrolled_by",
    "watchlists",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A line of the report."""

    row: str
    status: str
    """enrolled; exists (it was enrolled before, the same); skipped (a run before did it); failed."""
    poi: str = ""
    request_id: str = ""
    """Of the row's content: what is done is not sent again."""
    reason: str = ""
    message: str = ""


def enrolled(row: str, request: poi_pb2.CreatePoiRequest, poi: poi_pb2.Poi) -> Outcome:
    """Of a row that is in the registry now."""
    return Outcome(row, "enrolled", poi=poi.name, request_id=request.request_id)


def failed(row: str, error: MeshError) -> Outcome:
    """Of a row that was refused."""
    return Outcome(row, "failed", reason=error.reason, message=explain(error))


def same(request: poi_pb2.CreatePoiRequest, there: poi_pb2.Poi) -> list[str]:
    """The fields in which an enrolled person differs from what a row wants; of photos, only their number is known.

    Not the end: `90d` is another moment on another day.
    """
    wanted = request.poi
    compared = [name for name in _COMPARED if name != "enrolled_by" or wanted.enrolled_by]  # else the server says who
    differing = [name for name in compared if getattr(wanted, name) != getattr(there, name)]
    if len(there.references) != len(request.images):
        differing.append("number of photos")
    return differing


class Report:
    """The file. Lines are added as rows are answered; a line that was torn by a crash counts for nothing."""

    def __init__(self, path: Path) -> None:
        """JSON lines, or CSV where the name ends so. Raises Refused."""
        self._path = path
        self._csv = path.suffix.lower() == ".csv"
        self.counts: Counter[str] = Counter()
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            self._done = {
                line.get("request_id") or ""
                for line in (self._read_csv(text) if self._csv else self._read_json(text))
                if line.get("status") in ("enrolled", "exists")
            } - {""}
            self._file = path.open("a", encoding="utf-8", newline="")
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"{path}: {error}") from None
        self._writer = csv.writer(self._file)
        if text and not text.endswith("\n"):
            self._file.write("\n")
        if self._csv and not text:
            self._writer.writerow([field.name for field in fields(Outcome)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def has(self, request_id: str) -> bool:
        """Whether a run before did a row of this content."""
        return request_id in self._done

    def add(self, outcome: Outcome) -> None:
        """Keep a line."""
        self.counts[outcome.status] += 1
        if outcome.status == "skipped":
            return  # its line is there
        if self._csv:
            self._writer.writerow(asdict(outcome).values())
        else:
            self._file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
        self._file.flush()

    @staticmethod
    def _read_csv(text: str) -> list[dict[str, str]]:
        return list(csv.DictReader(text.splitlines()))

    @staticmethod
    def _read_json(text: str) -> list[dict[str, str]]:
        lines = []
        for line in text.splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                lines.append(found)
        return lines
