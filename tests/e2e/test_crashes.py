"""Anything may be killed at any moment while the recording plays: in the end nothing is missing and nothing doubled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event

import pytest

from mesh.local import Mesh, Program
from tests.e2e.store import Store
from tests.e2e.story import Disturbance

pytestmark = pytest.mark.timeout(300)  # many processes, also on a machine with other work

_DOWN_S = 0.7
KILLED = ("match", "history", "region", "alert", "ingest", "redis", "broker")
FIRST_ALERTS, SECOND_CAMERA, LAST_ALERTS = 0.1, 5.3, 28.5
"""Seconds of the recording, in which both clips play twice."""
MOMENTS = {"the first and the last alerts": (FIRST_ALERTS, LAST_ALERTS), "the second camera": (SECOND_CAMERA,)}


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("name", KILLED)
async def test_killed_while_the_recording_plays(store: Store, name: str, moments: str) -> None:
    act = crash(store.mesh, [name])

    outcome = await store.play(*(Disturbance(at_s, act) for at_s in MOMENTS[moments]))

    store.expected.check(outcome)


@pytest.mark.parametrize("name", ["redis", "broker"])  # the others die more often in test_replicas
async def test_killed_three_times_in_one_replay(store: Store, name: str) -> None:
    again = crash(store.mesh, [name], down_s=0.1)

    outcome = await store.play(*(Disturbance(at_s, again) for at_s in (0.3, 6.0, 28.7)))

    store.expected.check(outcome)


@pytest.mark.parametrize("name", [name for name in KILLED if name not in ("ingest", "broker")])
async def test_ingest_killed_while_it_waits_for_another(store: Store, name: str) -> None:
    away, ingest = program(store.mesh, name), program(store.mesh, "ingest")

    def act() -> None:
        away.kill()
        Event().wait(_DOWN_S)  # tens of messages have come in meanwhile and are not done
        ingest.kill()
        for one in (away, ingest):
            one.start()

    outcome = await store.play(Disturbance(FIRST_ALERTS, act))

    store.expected.check(outcome)


@pytest.mark.parametrize("moment", [FIRST_ALERTS, LAST_ALERTS])
async def test_everything_loses_power_at_once(store: Store, moment: float) -> None:
    outcome = await store.play(Disturbance(moment, crash(store.mesh, [*KILLED, "embed"])))

    store.expected.check(outcome)
    assert outcome.interruptions


async def test_a_rolling_update_while_the_recording_plays(store: Store) -> None:
    updates = [
        Disturbance(at_s, program(store.mesh, name).restart)
        for at_s, name in enumerate(("match", "history", "region", "alert", "ingest"))
    ]

    outcome = await store.play(*updates)

    store.expected.check(outcome)


def program(mesh: Mesh, name: str) -> Program:
    (found,) = (program for program in mesh.programs if program.name == name)
    return found


def crash(mesh: Mesh, names: Iterable[str], *, down_s: float = _DOWN_S) -> Callable[[], None]:
    """SIGKILL to all of them; after a while they are started again side by side."""
    programs = [one for one in mesh.programs if one.name in set(names)]

    def act() -> None:
        assert all(one.running for one in programs)
        for one in programs:
            one.kill()
        Event().wait(down_s)
        for one in programs:
            one.spawn()
        for one in programs:
            one.wait_ready()

    return act
