"""`poi targets`, `poi deliveries` and `poi dead-letters`, as a person types them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from poi.v1 import delivery_pb2

from mesh.local import Service
from tests.delivery.receiver import OK, Receiver, answer
from tests.delivery.support import SECRET, Client, settled

Poi = Callable[..., Awaitable[tuple[int, str, str]]]
_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def poi(alert_server: Service, client: Client) -> Poi:
    """Runs the command; its status, output and complaints."""
    env = {**os.environ, "POI_ALERT_TARGET": alert_server.target, "POI_STORE": client.store.removeprefix("stores/")}

    async def run(*arguments: str, **more: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "clients.cli", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**env, **more},
            cwd=_ROOT,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    return run


async def test_a_webhook_from_its_creation_to_a_replayed_dead_letter(
    poi: Poi, client: Client, receiver: Receiver
) -> None:
    status, out, _ = await poi("targets", "create", "--id", "desk", "--webhook", receiver.url, POI_TARGET_SECRET=SECRET)
    assert (status, out.splitlines()[1].split()) == (0, ["desk", "webhook", receiver.url, "ACTIVE", "0", "0"])
    assert (await poi("targets", "test", "desk"))[1].startswith("desk  DELIVERED  in ")

    receiver.behave = lambda post: answer("422 No")
    (name,) = await client.raise_numbers(range(1))
    await settled(client, 1, delivery_pb2.DELIVERY_STATE_DEAD, "desk")
    status, out, err = await poi("targets", "test", "desk")
    assert (status, out, err) == (1, "", "poi: desk: answered 422 No\n")
    _, out, _ = await poi("dead-letters", "list", "desk")
    delivery, *rest = out.splitlines()[1].split()
    assert rest[:4] == ["DEAD", "RAISED", name.rpartition("/")[2], "1"]

    receiver.behave = lambda post: OK
    assert (await poi("dead-letters", "replay", "desk", delivery))[1] == "desk  1 replayed\n"
    await settled(client, 1, delivery_pb2.DELIVERY_STATE_DELIVERED, "desk")
    assert (await poi("dead-letters", "list", "desk"))[1] == "no dead letters\n"
    _, out, _ = await poi("deliveries", "desk", "--state", "delivered", "--alert", name, "--json")
    assert [each["attemptCount"] for each in json.loads(out)["deliveries"]] == [1]


async def test_a_target_is_changed_in_parts(poi: Poi, client: Client, receiver: Receiver) -> None:
    await client.webhook(receiver.url, "desk")
    changes = ("--secret", "another-secret-of-mine", "--header", "X-Token: abc", "--min-severity", "high", "--disable")
    status, out, err = await poi("targets", "update", "desk", *changes, "--json")
    assert status == 0, err
    changed = json.loads(out)
    assert changed["webhook"] == {"url": receiver.url, "headerNames": ["X-Token"]}
    assert changed["filter"] == {"minSeverity": "SEVERITY_HIGH"}
    assert changed["enabled"] is False
    _, out, _ = await poi("targets", "list")
    assert "DISABLED" in out
    assert (await poi("targets", "update", "desk", "--everything", "--enable"))[0] == 0
    assert not (await client.get("desk")).filter.ByteSize()
    assert (await poi("targets", "delete", "desk"))[1] == "desk  deleted\n"
    assert (await poi("targets", "list"))[1] == "no targets\n"


async def test_each_kind_is_created(poi: Poi) -> None:
    for kind in (("--log",), ("--websocket",), ("--mqtt", "poi-mesh/alerts", "--retain")):
        status, out, err = await poi("targets", "create", *kind)
        assert status == 0, err
        assert kind[0].removeprefix("--") in out
    status, _, err = await poi("targets", "create", "--log", "--websocket")
    assert status == 2
    assert "exactly one of" in err
    status, _, err = await poi("targets", "create", "--webhook", "http://10.0.0.1/", "--secret", SECRET)
    assert status == 1
    assert "private address" in err
