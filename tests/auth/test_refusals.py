"""Of refused calls all are kept while they are few, and a count when somebody is refused all the time."""

from __future__ import annotations

import pytest

from mesh.auth import Principal, Refusal, Refusals
from mesh.auth import refusals as module
from tests.support import until

ALEX = Principal("person", "alex")
DANA = Principal("person", "dana")


class Log:
    """What is kept, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told: list[Refusal] = []
        self.refusals = Refusals(self._tell, clock=lambda: self.now)

    async def _tell(self, refusal: Refusal) -> None:
        self.told.append(refusal)

    async def knock(self, count: int, who: Principal | None = ALEX, host: str = "192.0.2.1") -> None:
        for _ in range(count):
            refusal = Refusal(who, "a.Service/Method", "", "UNAUTHENTICATED", "NO_TOKEN", f"ipv4:{host}:1", host)
            await self.refusals.tell(refusal)

    @property
    def counted(self) -> int:
        """Told, or said to be left out."""
        return len(self.told) + sum(refusal.more for refusal in self.told)


async def test_who_is_refused_now_and_then_is_kept_each_time() -> None:
    log = Log()

    for _ in range(100):
        await log.knock(1)
        log.now += 2.1

    assert len(log.told) == log.counted == 100
    await log.refusals.close()


async def test_who_knocks_all_the_time_does_not_fill_the_log_and_is_counted() -> None:
    log = Log()

    for _ in range(20):
        await log.knock(500)
        log.now += 1
    await log.refusals.close()

    assert 30 <= len(log.told) <= 42
    assert log.counted == 10_000


async def test_one_who_knocks_hides_nobody_else() -> None:
    log = Log()

    await log.knock(1000)
    await log.knock(1, DANA)
    await log.knock(1, None)
    await log.knock(1000, None, "192.0.2.9")
    await log.knock(1, None, "192.0.2.10")

    assert sum(refusal.principal is DANA for refusal in log.told) == 1
    assert {refusal.host for refusal in log.told if refusal.principal is None} == {
        "192.0.2.1",
        "192.0.2.9",
        "192.0.2.10",
    }
    await log.refusals.close()


async def test_the_last_count_is_told_though_nobody_knocks_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PER_SECOND", 20.0)
    log = Log()

    await log.knock(100)
    await until(lambda: log.counted == 100)

    assert len(log.told) == 31
    await log.refusals.close()
    assert log.counted == 100


async def test_those_who_are_remembered_are_not_without_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CALLERS", 4)
    log = Log()

    for number in range(10):
        await log.knock(40, None, f"192.0.2.{number}")
    await log.refusals.close()

    assert len(log.refusals._callers) == 4
    assert log.counted == 400
