"""`python -m history_svc migrate`: copies all faces, sealed or in the log, into Qdrant, and checks that they are there.

It only reads, so that the service may run on with the faces in memory meanwhile; what comes in after a file
was read is sent by the service itself, when it starts with POI_HISTORY_QDRANT_URL. A copy that was interrupted goes on
where it was.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from history_svc import segments
from history_svc.index import Faces, Probes, Scope
from history_svc.qdrant import QdrantIndex, open_index
from history_svc.records import HAS_VECTOR, Detections, Header, Vectors, decode, raw_ids
from history_svc.sealed import build, manifest
from history_svc.sealed.faces import SealedFaces
from history_svc.sealed.manifest import Damaged
from history_svc.settings import Settings
from mesh import telemetry
from mesh.embeddings import DIMENSIONS, FACE_MODEL
from mesh.errors import MeshError
from mesh.settings import load, program_name, refuse

SAMPLES: Final = 20
"""Faces that are searched for, in Qdrant and in the log."""
ENOUGH: Final = 0.999
"""The part of what is in the log that these searches must find: Qdrant's graph is an approximation."""
_EDGE: Final = 1e-4
_HOUR_NS: Final = 3_600_000_000_000


class Incomplete(Exception):
    """Qdrant does not have, or does not find, what the log has."""


def run(argv: Sequence[str]) -> None:
    """The command. Ends with status 1 when the copy is not what it should be, 2 for a wrong setting."""
    parser = argparse.ArgumentParser(prog="python -m history_svc migrate", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings, as of the service")
    parser.add_argument("--all", action="store_true", help="send every face again, also those that Qdrant should have")
    chosen = parser.parse_args(argv)
    settings = load(Settings, ["--config", chosen.config] if chosen.config else [])
    telemetry.configure(settings.log_level, settings.log_format, "history")
    program = program_name(Settings)
    if not settings.qdrant_url:
        refuse(program, "POI_HISTORY_QDRANT_URL: says where to, and is empty")
    console = Console()
    header = Header(settings.store, FACE_MODEL, DIMENSIONS[FACE_MODEL])
    floor = time.time_ns() - int(settings.retention_days * 24 * _HOUR_NS)
    try:
        index = open_index(settings.qdrant_url, header, exact=settings.qdrant_exact, resend=chosen.all)
    except MeshError as error:
        refuse(program, f"POI_HISTORY_QDRANT_URL: {error}")
    try:
        migration = Migration(settings.data_dir, header, index, floor, console)
        migration.copy()
        migration.check(settings.min_similarity)
    except Incomplete as error:
        console.print(f"not complete: {error}", style="red", markup=False)
        raise SystemExit(1) from None
    except (MeshError, ValueError, OSError) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        console.print("stopped; the next run goes on from here")
        raise SystemExit(130) from None
    finally:
        index.close()


class Migration:
    """A copy of the faces in a data directory from `floor_ns` on, and its check. `copy` first, then `check`."""

    def __init__(self, directory: Path, header: Header, index: QdrantIndex, floor_ns: int, console: Console) -> None:
        self._directory, self._header, self._index = directory, header, index
        self._floor_ns, self._console = floor_ns, console
        self._appearances: dict[bytes, int] = {}
        self._samples: list[Vectors] = []
        self._copied = 0

    def copy(self) -> int:
        """Sends what Qdrant lacks and returns how many faces there are; waits as long as it takes."""
        random = np.random.default_rng()
        index = self._index
        before = len(index)
        for faces in self._read("copy", lambda: f"{self._copied:,} faces, Qdrant has {len(index):,}"):
            for vector in faces.vectors:
                # Each face has the same chance to be one of the samples.
                self._copied += 1
                if len(self._samples) < SAMPLES:
                    self._samples.append(vector)
                elif (at := int(random.integers(self._copied))) < SAMPLES:
                    self._samples[at] = vector
            index.add(faces)
        index.settle()
        index.drop_before(self._floor_ns)
        index.settle()
        self._console.print(f"{self._copied:,} faces in the log, {len(index) - before:,} more in Qdrant than before")
        return self._copied

    def check(self, least: float) -> None:
        """Compares counts by camera, and what searches for the samples find. Raises Incomplete."""
        # The service may drop what gets too old meanwhile.
        scope = Scope(start_ns=self._floor_ns + _HOUR_NS, before=self._index.next_number)
        probes = np.array(self._samples, np.float32).reshape(-1, self._header.dimension)
        expected: list[dict[int, float]] = [{} for _ in probes]
        counts: Counter[str] = Counter()
        for faces in self._read("check", lambda: f"{counts.total():,} faces"):
            inside = (faces.rows["time_ns"] >= scope.start_ns) & (faces.numbers < scope.before)
            counts.update(camera for camera, one in zip(faces.cameras, inside.tolist(), strict=True) if one)
            for best, cosines in zip(expected, probes @ faces.vectors.T, strict=True):
                for at in np.flatnonzero(inside & (cosines >= least)).tolist():
                    number = int(faces.appearances[at])
                    best[number] = max(best.get(number, -1.0), float(cosines[at]))
        self._compare_counts(counts, scope)
        self._compare_searches(probes, expected, least, scope)

    def _compare_counts(self, counts: Counter[str], scope: Scope) -> None:
        found = {camera: self._index.count(_of_camera(scope, camera)) for camera in counts}
        total = self._index.count(scope)
        wrong = sorted(camera for camera in counts if counts[camera] != found[camera])
        if wrong or total != counts.total():
            raise Incomplete(
                f"Qdrant has {total:,} faces of {counts.total():,}, others at {len(wrong)} cameras "
                f"({', '.join(wrong[:5])}); --all sends every face again"
            )
        self._console.print(f"{total:,} faces at {len(counts)} cameras: as many as in the log")

    def _compare_searches(self, probes: Vectors, expected: list[dict[int, float]], least: float, scope: Scope) -> None:
        hits = missed = 0
        for probe, best in zip(probes, expected, strict=True):
            found = self._index.search(Probes(probe[None], probe[None]), least, scope)
            similarities = dict(zip(found.appearances.tolist(), found.similarities.tolist(), strict=True))
            # Rounding decides about those at the limit.
            sure = {number: one for number, one in best.items() if one >= least + _EDGE}
            hits += len(sure)
            missed += sum(abs(similarities.get(number, -1.0) - one) > _EDGE for number, one in sure.items())
            if any(one > least + _EDGE for number, one in similarities.items() if number not in best):
                raise Incomplete("a search finds an appearance that is not in the log: is this another store's data?")
        if missed > hits * (1 - ENOUGH):
            raise Incomplete(
                f"{len(probes)} searches find {hits - missed:,} of {hits:,} appearances: wait until Qdrant has built "
                "its graph (status green) and try again, or set POI_HISTORY_QDRANT_EXACT"
            )
        self._console.print(f"{len(probes)} searches: {hits - missed:,} of {hits:,} appearances, the same similarities")

    def _read(self, what: str, state: Callable[[], str]) -> Iterator[Faces]:
        files = sorted(self._directory.glob("detections-*.log"))
        sealed = [path for path in sorted((self._directory / "segments").glob("*")) if not path.suffix]
        if not files and not sealed:
            raise Incomplete(f"there is no detection log in {self._directory}")
        columns = (
            TextColumn(what),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} % {task.fields[state]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        seen: set[bytes] = set()
        with Progress(*columns, console=self._console) as bar:
            total = sum(map(_size, [*files, *(path / build.VECTORS for path in sealed)]))
            task = bar.add_task(what, total=total, state="")
            for path in sealed:
                yield self._sealed_faces(path, seen)
                bar.update(task, advance=_size(path / build.VECTORS), state=state())
            for path in files:
                for content in self._records(path):
                    if isinstance(content, Detections) and len(content.vectors):
                        yield self._faces(content, seen)
                        advance = content.rows.nbytes + content.vectors.nbytes
                        bar.update(task, advance=advance, state=state())
            bar.update(task, completed=total, total=total, state=state())

    def _records(self, path: Path) -> Iterator[object]:
        try:
            for payload in segments.read(path):
                if isinstance(payload, segments.Span):
                    continue  # damaged, or being written at this moment: the service sees to it
                content = decode(payload, self._header.dimension)
                if isinstance(content, Header) and content != self._header:
                    raise Incomplete(f"{path.name} holds {content.model} embeddings of store {content.store}")
                yield content
        except FileNotFoundError:
            return  # too old by now: the service removed it

    def _sealed_faces(self, path: Path, seen: set[bytes]) -> Faces:
        """The faces of a segment that are not too old."""
        try:
            segment = SealedFaces(path, manifest.load(path))
        except (Damaged, OSError) as error:
            raise Incomplete(f"the segment {path.name} cannot be read: {error}") from None
        if segment.manifest.header != self._header:
            raise Incomplete(f"{path.name} holds embeddings of store {segment.manifest.header.store}")
        seen.update(segment.table.ids("detection"))
        faces = segment.faces()
        kept = np.flatnonzero(faces.rows["time_ns"] >= self._floor_ns)
        return Faces(
            faces.numbers[kept],
            self._numbers(faces.rows["appearance"][kept]),
            [faces.cameras[at] for at in kept.tolist()],
            faces.rows[kept],
            faces.vectors[kept],
        )

    def _numbers(self, appearances: NDArray[np.void]) -> NDArray[np.int64]:
        known = self._appearances
        return np.array([known.setdefault(one, len(known)) for one in raw_ids(appearances)], np.int64)

    def _faces(self, batch: Detections, seen: set[bytes]) -> Faces:
        """The faces of a record that are not too old, without detections that were written before."""
        at = np.flatnonzero(batch.rows["flags"] & HAS_VECTOR)
        rows = batch.rows[at]
        fresh = rows["time_ns"] >= self._floor_ns
        for position, detection in enumerate(raw_ids(rows["detection"])):
            if detection in seen:
                fresh[position] = False
            seen.add(detection)
        taken = np.flatnonzero(fresh)
        rows = rows[taken]
        return Faces(
            batch.first_face + taken,
            self._numbers(rows["appearance"]),
            [batch.tracks[track][0] for track in rows["track"].tolist()],
            rows,
            batch.vectors[taken],
        )


def _of_camera(scope: Scope, camera: str) -> Scope:
    return Scope(scope.start_ns, scope.end_ns, [camera], scope.before)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
