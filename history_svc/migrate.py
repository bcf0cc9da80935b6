"""`python -m history_svc migrate`: copies a history from files to Qdrant and an object store, and checks the copy.

It only reads the files, so that the service may run on meanwhile. What comes in after they were read is copied by
another run, with the service stopped, which sends only what is missing: then the service can start with
POI_HISTORY_QDRANT_URL. A copy that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from history_svc.appearances import Rules
from history_svc.frames import FrameStore
from history_svc.objects import directory_of
from history_svc.qdrant.collections import connect
from history_svc.qdrant.database import Database
from history_svc.qdrant.migration import Migration
from history_svc.qdrant.source import Incomplete, Part, Source
from history_svc.records import Header
from history_svc.replay import OtherData
from history_svc.seam import Seam
from history_svc.settings import Settings
from history_svc.vaulted import seam_of
from mesh import telemetry
from mesh.embeddings import DIMENSIONS, FACE_MODEL
from mesh.errors import MeshError
from mesh.settings import load, program_name, refuse

_DAY_NS: Final = 86_400_000_000_000


def run(argv: Sequence[str]) -> None:
    """The command. Ends with status 1 when the copy is not what it should be, 2 for a wrong setting."""
    parser = argparse.ArgumentParser(prog="python -m history_svc migrate", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings, as of the service")
    parser.add_argument("--all", action="store_true", help="send everything again, also what Qdrant has")
    chosen = parser.parse_args(argv)
    settings = load(Settings, ["--config", chosen.config] if chosen.config else [])
    telemetry.configure(settings.log_level, settings.log_format, "history")
    program = program_name(Settings)
    for name, value in (("QDRANT_URL", settings.qdrant_url), ("FRAMES_URL", settings.frames_url)):
        if not value:
            refuse(program, f"POI_HISTORY_{name}: says where to, and is empty")
    console = Console()
    try:
        header = Header(settings.store, FACE_MODEL, DIMENSIONS[FACE_MODEL])
        database = Database(connect(settings.qdrant_url), header)
    except MeshError as error:
        refuse(program, f"POI_HISTORY_QDRANT_URL: {error}")
    try:
        _migrate(settings, database, console, everything=chosen.all)
    except Incomplete as error:
        console.print(f"not complete: {error}", style="red", markup=False)
        raise SystemExit(1) from None
    except (MeshError, OtherData, ValueError, OSError) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        console.print("stopped; the next run goes on from here")
        raise SystemExit(130) from None
    finally:
        database.close()


def _migrate(settings: Settings, database: Database, console: Console, *, everything: bool) -> None:
    floor_ns = time.time_ns() - int(settings.retention_days * _DAY_NS)
    rules = Rules(int(settings.gap_seconds * 1e9), settings.other_person_similarity)
    with tempfile.TemporaryDirectory() as scratch:
        seam = seam_of(settings)
        source = Source(settings.data_dir, database.header, rules, floor_ns, Path(scratch), seam)
        try:
            migration = Migration(
                source,
                database,
                _kept_images(settings, seam),
                FrameStore.open(settings.frames_url, Path(), seam),
                lambda line: console.print(line, markup=False, highlight=False),
                exact=settings.qdrant_exact,
            )

            def bar(what: str, parts: Iterable[Part], total: int) -> Iterator[Part]:
                return _bar(console, what, parts, total)

            migration.copy(bar, everything=everything)
            migration.check(bar, settings.min_similarity, floor_ns)
        finally:
            source.close()


def _kept_images(settings: Settings, seam: Seam) -> FrameStore | None:
    """The images in the data directory; None when there are none, or when they are to stay there."""
    kept, url = settings.data_dir / "frames", settings.frames_url
    if not kept.exists() or (url.startswith("file:") and directory_of(url).resolve() == kept.resolve()):
        return None
    return FrameStore.open("", kept, seam)


def _bar(console: Console, what: str, parts: Iterable[Part], total: int) -> Iterator[Part]:
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} % {task.completed:,.0f} detections"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        for part in parts:
            yield part
            progress.update(task, advance=len(part.rows))
        progress.update(task, completed=total, total=total)
