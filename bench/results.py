"""What is measured, as it is written to JSON."""

from __future__ import annotations

from pydantic import BaseModel


class Machine(BaseModel):
    """Where and with what."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    broker: str
    redis: str
    load_average: float
    """Over the minute before the start: what else the machine was doing."""


class Run(BaseModel):
    """One load on the mesh, from its first message until all were acknowledged."""

    messages_per_second: float
    detections_per_second: float
    seconds: float
    published_messages: int
    acknowledged_messages: int
    detections: int
    lost_detections: int
    """Published and not stored by history, by history's own count."""
    refused: int
    expected_alerts: int
    lost_alerts: int
    doubled_alerts: int
    lag_first_ms: float
    """Median lag in the first third of the run: age of the oldest message that is published and not acknowledged."""
    lag_last_ms: float
    """The same in the last third: not more, where the rate is sustained."""
    lag_max_ms: float
    late_max_ms: float
    """How late the load generator was at worst."""
    steady: bool
    """Nothing lost, the lag did not grow, and the generator kept its rate."""
    why_not: str = ""
    cpu_us_per_detection: dict[str, float] = {}
    """CPU time of each process by the detections of the run, microseconds; "all" is their sum."""
    cores_busy: float = 0.0
    """Of the machine, by anybody."""
    cores_of_others: float = 0.0
    """Of these, by processes that are no part of this benchmark."""


class Latency(BaseModel):
    """From the publication of a camera's message to the alert in the client's hand."""

    run: Run
    alerts: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Baseline(BaseModel):
    """What the broker alone carries: the same payloads to a subscriber that does nothing, QoS 1."""

    messages_per_second: float
    detections_per_second: float
    messages: int
    payload_bytes: float


class Row(BaseModel):
    """One combination of faces a message and persons enrolled."""

    faces_per_message: int
    pois: int
    sustained: Run | None
    """None where no rate was found."""
    latency: Latency | None
    baseline: Baseline
    ratio: float
    """Detections sustained, by those that the broker alone carries."""
    hot_functions: dict[str, list[str]] = {}
    """By process, where asked to profile."""


class Report(BaseModel):
    """A whole run of the benchmark."""

    started: str
    command: str
    seconds: float
    machine: Machine
    secure: bool = False
    """With mutual TLS, authorisation, audit and encryption at rest."""
    data: str
    rows: list[Row]
