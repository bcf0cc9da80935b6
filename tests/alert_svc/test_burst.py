"""A burst of alerts on clients that follow some of them: nobody misses one, nobody sees one twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poi.v1 import alert_pb2, common_pb2

from mesh.local import Service
from tests.alert_svc.support import Follower, candidate, raise_alerts

if TYPE_CHECKING:
    from poi.v1.alert_pb2_grpc import AlertServiceAsyncStub

BURST, BATCH = 10_000, 256
LOW, HIGH = common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_HIGH


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    (line,) = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def one_of_the_burst(store: str, number: int) -> alert_pb2.AlertCandidate:
    made = candidate(
        store,
        f"a{number}",
        f"p{number % 500}",
        camera=f"c{number % 20}",
        severity=HIGH if number % 10 == 0 else LOW,
    )
    made.match.watchlists.append(f"{store}/watchlists/w{number % 7}")
    return made


async def test_ten_thousand_alerts_reach_twenty_clients_once_each(
    alert_server: Service, client: AlertServiceAsyncStub, store: str
) -> None:
    before = resident_bytes(alert_server.pid)
    burst = [one_of_the_burst(store, number) for number in range(BURST)]
    filters: list[dict[str, Any]] = [
        {},
        {"min_severity": HIGH},
        *({"cameras": [f"{store}/cameras/c{number}"]} for number in range(10)),
        *({"watchlists": [f"{store}/watchlists/w{number}"]} for number in range(4)),
        *({"pois": [f"{store}/pois/p{number}", f"{store}/pois/p7"]} for number in range(4)),
    ]
    wanted = [
        {
            each.appearance
            for each in burst
            if each.match.severity >= one.get("min_severity", LOW)
            and each.camera in one.get("cameras", [each.camera])
            and each.match.poi in one.get("pois", [each.match.poi])
            and each.match.watchlists[0] in one.get("watchlists", each.match.watchlists)
        }
        for one in filters
    ]
    followers = [Follower(store, alert_server.target) for _ in filters]
    following = [
        asyncio.create_task(follower.run(len(expected), **one))
        for follower, expected, one in zip(followers, wanted, filters, strict=True)
    ]
    await asyncio.gather(*(follower.until_live() for follower in followers))
    batches = [burst[start : start + BATCH] for start in range(0, BURST, BATCH)]
    # Four at a time, as ingest does, some batches twice, as after lost answers.
    turns = asyncio.Semaphore(4)

    async def send(batch: list[alert_pb2.AlertCandidate]) -> int:
        async with turns:
            return sum(raised.created for raised in (await raise_alerts(client, store, *batch)).alerts)

    created = await asyncio.gather(*(send(batch) for batch in (*batches, *batches[::4])))
    assert sum(created) == BURST
    await asyncio.gather(*following)
    for follower, expected in zip(followers, wanted, strict=True):
        seen = [response.alert.appearance for response in follower.responses]
        assert len(seen) == len(expected)
        assert set(seen) == expected
        assert not follower.interruptions
    assert resident_bytes(alert_server.pid) - before < 150e6
