"""Import of many persons: from a folder of photos or a CSV file, resumable, with a report of every row."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import grpc
import typer
from poi.v1 import poi_pb2, poi_pb2_grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clients.cli import output, roster
from clients.cli.options import (
    AllowDisagreement,
    AllowDuplicate,
    Basis,
    EnrolledBy,
    LegalReference,
    Purpose,
    Severity,
)
from clients.cli.outcomes import Outcome, Report, enrolled, failed, same
from clients.cli.roster import Entry
from clients.cli.session import Mesh, Refused, execute
from mesh.errors import AlreadyExists, MeshError, from_rpc, from_status

_AHEAD: Final = 16
"""Rows that are under way at once: the server works on 4."""
_ATTEMPTS: Final = 8
"""How often in a row a stream may end, or a row be put off, without anything being answered."""
_LONGEST_WAIT: Final = 5.0

_Request: TypeAlias = poi_pb2.CreatePoiRequest
_Wanted: TypeAlias = tuple[Entry, _Request]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("import")(import_pois)


def import_pois(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FOLDER|CSV", help="Who is to be enrolled; see below.")],
    purpose: Purpose = "",
    legal_basis: Basis = None,
    legal_reference: LegalReference = "",
    enrolled_by: EnrolledBy = "",
    expire: Annotated[str, typer.Option(metavar="TIME", help="When to forget: 90d, or ISO 8601.")] = "",
    watchlist: Annotated[list[str] | None, typer.Option(metavar="LIST", help="Put on it (repeat).")] = None,
    severity: Annotated[Severity, typer.Option(case_sensitive=False, help="How much it matters.")] = Severity.MEDIUM,
    allow_duplicate: AllowDuplicate = False,
    allow_disagreement: AllowDisagreement = False,
    report: Annotated[
        Path | None, typer.Option(help="A line for each row, as .jsonl or .csv; PATH.import.jsonl otherwise.")
    ] = None,
) -> None:
    """Enrols many persons; what is done already is skipped, so that it can be run again.

    FOLDER: a sub-folder for each person with their photos, or a photo for each. CSV: a header with photos (files, `;`
    between) and any of id, display_name, severity, notes, purpose, legal_basis, legal_reference, enrolled_by, expire,
    watchlists; the options are for what a row leaves empty. Status 1 when rows failed.
    """
    mesh: Mesh = context.obj
    defaults = {
        "purpose": purpose,
        "legal_basis": legal_basis.value if legal_basis else "",
        "legal_reference": legal_reference,
        "enrolled_by": mesh.actor(enrolled_by),
        "expire": expire,
        "watchlists": ";".join(watchlist or ()),
        "severity": severity.value,
    }
    beside = path if path.name not in ("", "..") else path.resolve()  # "." has no name
    target = report or beside.with_name(f"{beside.name}.import.jsonl")

    async def run() -> Counter[str]:
        entries = roster.read(path, {key: text for key, text in defaults.items() if text})
        with Report(target) as kept, _progress() as progress:
            task = progress.add_task("enrolling", total=len(entries))

            def request_of(entry: Entry) -> poi_pb2.CreatePoiRequest:
                return roster.request_of(
                    entry, mesh, allow_duplicate=allow_duplicate, allow_disagreement=allow_disagreement
                )

            async with mesh.channel("match") as channel:
                importer = _Importer(poi_pb2_grpc.PoiServiceStub(channel), kept, request_of)
                async for outcome in importer.all(entries):
                    kept.add(outcome)
                    progress.advance(task)
            return kept.counts

    counts = execute(run())
    said = [f"{counts[status]} {text}" for status, text in _SAID if counts[status]]
    output.print_line(", ".join(said))
    output.print_line(f"report: {target}")
    if counts["failed"]:
        raise typer.Exit(1)


_SAID: Final = (
    ("enrolled", "enrolled"),
    ("exists", "enrolled already"),
    ("skipped", "done before"),
    ("failed", "failed"),
)


class _Importer:
    """One import: rows to a stream, answers from it; a stream that ends is opened again where it ended."""

    def __init__(
        self, stub: poi_pb2_grpc.PoiServiceAsyncStub, report: Report, request_of: Callable[[Entry], _Request]
    ) -> None:
        """`request_of` opens the photos of an entry; it may raise Refused."""
        self._stub = stub
        self._report = report
        self._request_of = request_of

    async def all(self, entries: Sequence[Entry]) -> AsyncIterator[Outcome]:
        """What became of each. Raises what the server says when it cannot be reached for long."""
        for start in range(0, len(entries), _AHEAD):
            wanted: list[_Wanted] = []
            for entry in entries[start : start + _AHEAD]:
                try:
                    request = await asyncio.to_thread(self._request_of, entry)
                except Refused as error:
                    yield Outcome(entry.row, "failed", reason="UNUSABLE_ROW", message=str(error))
                    continue
                if self._report.has(request.request_id):
                    yield Outcome(entry.row, "skipped", request_id=request.request_id)
                else:
                    wanted.append((entry, request))
            async for outcome in self._sent(wanted):
                yield outcome

    async def _sent(self, wanted: list[_Wanted]) -> AsyncIterator[Outcome]:
        """What the server makes of these, again and again for those that it could not look at now."""
        attempts = 0
        while wanted:
            put_off: list[_Wanted] = []
            count = 0
            try:
                async for response in self._stream(wanted):
                    entry, request = wanted[count]
                    count += 1
                    error = from_status(response.error) if response.HasField("error") else None
                    if error is not None and error.retryable and attempts < _ATTEMPTS:
                        put_off.append((entry, request))
                    else:
                        yield await self._outcome(entry, request, response.poi, error)
            except grpc.aio.AioRpcError as broken:
                if not from_rpc(broken).retryable or attempts >= _ATTEMPTS:
                    raise
            progress = count > len(put_off)
            wanted = put_off + wanted[count:]
            attempts = 0 if progress else attempts + 1
            if wanted and not progress:
                await asyncio.sleep(min(_LONGEST_WAIT, 0.1 * 2**attempts))

    async def _stream(self, wanted: Sequence[_Wanted]) -> AsyncIterator[poi_pb2.ImportPoisResponse]:
        rows = (poi_pb2.ImportPoisRequest(row_id=entry.row, request=request) for entry, request in wanted)
        async for response in self._stub.ImportPois(rows):
            yield response

    async def _outcome(
        self, entry: Entry, request: poi_pb2.CreatePoiRequest, poi: poi_pb2.Poi, error: MeshError | None
    ) -> Outcome:
        if error is None:
            return enrolled(entry.row, request, poi)
        if isinstance(error, AlreadyExists):
            # A repeat after more than the day that request ids are remembered.
            name = f"{request.parent}/pois/{request.poi_id}"
            there = await self._stub.GetPoi(poi_pb2.GetPoiRequest(name=name))
            differing = same(request, there)
            if not differing:
                return Outcome(entry.row, "exists", poi=name, request_id=request.request_id)
            message = f"{request.poi_id} is enrolled already, with another {', '.join(differing)}"
            return Outcome(entry.row, "failed", poi=name, reason=error.reason, message=message)
        return failed(entry.row, error)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True)
