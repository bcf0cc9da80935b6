"""What was measured, as a table beside the aims, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table

from bench.history.appends import Appended
from bench.lag import quantile


@dataclass(frozen=True)
class Quantiles:
    """Of times in ms."""

    p50: float
    p95: float
    count: int

    @classmethod
    def of(cls, ascending: list[float]) -> Self:
        """Those of at least one time."""
        return cls(quantile(ascending, 0.5), quantile(ascending, 0.95), len(ascending))


@dataclass(frozen=True)
class Memory:
    """MiB of a process: all that is in memory, and without the pages of files that it has mapped."""

    resident: float
    own: float


@dataclass(frozen=True)
class Meanwhile:
    """Appends, and the searches of one client that went on."""

    appended: Appended
    search: Quantiles | None


@dataclass(frozen=True)
class Server:
    """What a running server did. Recalls are of appearances, with the exact answer as truth."""

    recall_centres: float
    """Of the people's mean faces, at the usual threshold."""
    recall_photos: float
    """Of new photos of them."""
    recall_photos_hard: float
    """Of these, at a threshold in the middle of a person's faces."""
    warm: Quantiles
    tenth: Quantiles
    cold: Quantiles
    cold_how: str
    resident_after_searches: Memory
    appends_alone: Appended
    flat_out: Meanwhile
    paced: Meanwhile
    paced_rate: float


@dataclass(frozen=True)
class Report:
    """One run. Times in ms unless said otherwise."""

    machine: str
    load_average: float
    rows: int
    segments: int
    threshold: float
    hard_threshold: float
    flat_p50: float
    """faiss.IndexFlatIP as shipped."""
    scan_p50: float
    """The best exact scan in single precision."""
    disk_bytes_per_face: float
    start_seconds: float
    resident_after_start: Memory
    server: Server

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        """(what, measured, aim at ten million)."""
        server, hard = self.server, self.hard_threshold
        warm, flat_out, paced = server.warm, server.flat_out, server.paced
        after = server.resident_after_searches
        return [
            ("search p50 / p95, warm", _both(warm), "60 / 120 ms"),
            ("... times faster than IndexFlatIP", f"{self.flat_p50 / warm.p50:.1f} ({self.flat_p50:.0f} ms)", "15"),
            ("... than the best exact scan", f"{self.scan_p50 / warm.p50:.1f} ({self.scan_p50:.0f} ms)", "5"),
            ("the same, cold page cache", _both(server.cold), "p50 150 ms"),
            ("a tenth of the time range", _both(server.tenth), "p50 10 ms"),
            ("recall, new photos", f"{server.recall_photos:.5f}", "0.999"),
            (f"... at threshold {hard}", f"{server.recall_photos_hard:.5f}", ""),
            ("... mean faces", f"{server.recall_centres:.5f}", ""),
            ("resident after start", _memory(self.resident_after_start), "1,200 MiB"),
            ("resident after searches", _memory(after), "1,200 MiB"),
            ("durable appends, nobody searching", _rate(server.appends_alone), ""),
            ("durable appends while a client searches", _rate(flat_out.appended), "20,000/s"),
            ("... search p50 / p95 meanwhile", _meanwhile(flat_out, warm), ""),
            (f"appends offered at {server.paced_rate:,.0f}/s, while searching", _rate(paced.appended), "20,000/s"),
            ("... search p50 / p95 meanwhile", _meanwhile(paced, warm), "p95 2 times"),
            ("start to serving", f"{self.start_seconds:.2f} s", "5 s"),
            ("on disk, a face", f"{self.disk_bytes_per_face:,.0f} bytes", ""),
        ]


def show(report: Report, console: Console) -> None:
    """Prints it."""
    table = Table(title=f"History of {report.rows:,} faces in {report.segments} segments, threshold {report.threshold}")
    table.add_column("what, through gRPC", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("aim at 10 M", justify="right")
    for line in report.lines:
        table.add_row(*line)
    console.print(table)
    console.print(f"{report.machine}; load average {report.load_average} before. Cold: {report.server.cold_how}.")


def save(report: Report, path: Path) -> None:
    """Writes it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(report), indent=2) + "\n")


def _both(of: Quantiles) -> str:
    return f"{of.p50:.1f} / {of.p95:.1f} ms"


def _memory(of: Memory) -> str:
    return f"{of.resident:,.0f} MiB ({of.own:,.0f} own)"


def _rate(of: Appended) -> str:
    return f"{of.rate:,.0f}/s (after {of.ack_p50:.0f} / {of.ack_p95:.0f} ms)"


def _meanwhile(of: Meanwhile, warm: Quantiles) -> str:
    return f"{_both(of.search)}: p95 {of.search.p95 / warm.p95:.1f} times" if of.search else "none ended"
