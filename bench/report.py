"""The results for a person, as tables, and for a program, as JSON."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.results import Report, Row


def show(console: Console, report: Report) -> None:
    """Prints machine, data, command and the tables."""
    machine = report.machine
    console.rule("poi-mesh: speed")
    console.print(
        f"Machine: {machine.cores} x {machine.cpu}, {machine.memory_gib:g} GiB, {machine.system}; "
        f"load average {machine.load_average} before the start\n"
        f"With: Python {machine.python}, {machine.broker}, {machine.redis}\n"
        f"Data: {report.data}\nCommand: {report.command}\n"
        f"Security: {'TLS, authorisation, audit, encryption at rest' if report.secure else 'off'}",
        markup=False,
    )
    console.print(_speed(report))
    console.print(_cpu(report))
    for row in report.rows:
        for name, functions in row.hot_functions.items():
            console.print(f"\n{name} at {row.faces_per_message} faces a message and {row.pois} POIs", style="bold")
            console.print("\n".join(functions), markup=False)


def write(report: Report, directory: Path) -> Path:
    """Writes the JSON and gives its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{datetime.fromisoformat(report.started).strftime('%Y%m%dT%H%M%SZ')}.json"
    path.write_text(report.model_dump_json(indent=2) + "\n")
    return path


def _speed(report: Report) -> Table:
    table = Table(
        title="Detections/s sustained, alert latency at half of that, and what the broker alone carries",
        caption="lag: of the last third of the run; others: cores used by what is no part of this; "
        "broker: detections/s to an empty subscriber; ratio: det/s to that",
    )
    for heading in (
        "faces", "POIs", "det/s", "lost", "lag ms", "others",
        "alerts", "p50 ms", "p95", "p99", "broker", "ratio",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in report.rows:
        run, latency = row.sustained, row.latency
        table.add_row(
            str(row.faces_per_message),
            f"{row.pois:,}",
            f"{run.detections_per_second:,.0f}" if run else "none",
            str(run.lost_detections + run.lost_alerts) if run else "",
            f"{run.lag_last_ms:.0f}" if run else "",
            f"{run.cores_of_others:.2f}" if run else "",
            f"{latency.alerts}" if latency else "",
            f"{latency.p50_ms:.1f}" if latency else "",
            f"{latency.p95_ms:.1f}" if latency else "",
            f"{latency.p99_ms:.1f}" if latency else "",
            f"{row.baseline.detections_per_second:,.0f}",
            f"{row.ratio:.2f}",
        )
    return table


def _cpu(report: Report) -> Table:
    table = Table(title="CPU microseconds a detection at the sustained rate, by process")
    rows: list[Row] = [row for row in report.rows if row.sustained]
    names = list(rows[0].sustained.cpu_us_per_detection) if rows and rows[0].sustained else []
    for heading in ("faces", "POIs", *(name.replace("load generator", "load") for name in names)):
        table.add_column(heading, justify="right")
    for row in rows:
        assert row.sustained is not None
        spent = row.sustained.cpu_us_per_detection
        table.add_row(str(row.faces_per_message), f"{row.pois:,}", *(f"{spent[name]:.0f}" for name in names))
    return table
