"""From matches to RaiseAlerts: what is sent, sent again, and not sent any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from poi.v1 import alert_pb2, common_pb2, history_pb2, match_pb2

from ingest_svc.acknowledgements import Acknowledgements
from ingest_svc.alerts import AlertRaiser
from ingest_svc.clocks import CameraClocks
from ingest_svc.detections import DetectionFlow
from ingest_svc.mqtt import Token
from ingest_svc.rejections import Problem
from ingest_svc.sent import Sent, SentMatches, after
from mesh.errors import InvalidArgument, to_status
from tests.support import detection, unit
from tests.support.detections import START

LOW, HIGH = common_pb2.SEVERITY_LOW, common_pb2.SEVERITY_HIGH
NOON = START.timestamp()


def match(
    poi: str, similarity: float, severity: common_pb2.Severity.ValueType = common_pb2.SEVERITY_MEDIUM
) -> match_pb2.Match:
    return match_pb2.Match(poi=f"stores/store-1/pois/{poi}", similarity=similarity, severity=severity, threshold=0.45)


class Services:
    """History, match and alert as ingest sees them."""

    def __init__(self) -> None:
        self.matches: dict[str, list[match_pb2.Match]] = {}
        """By detection."""
        self.asked: list[list[str]] = []
        self.stored: dict[str, common_pb2.Detection] = {}
        self.raised: list[alert_pb2.RaiseAlertsRequest] = []
        self.margin = 0.0
        """What makes an alert worth another look; 0 does not say."""
        self.timeouts: list[float] = []
        self.fails: list[grpc.StatusCode] = []
        self.on_failure: Callable[[], None] = lambda: None
        self.problems: list[Problem] = []
        self.sightings: list[tuple[str, int]] = []
        self._done = asyncio.Event()
        self.now = NOON
        self.history, self.match = _Stream(self._append), _Stream(self._match)
        self._acknowledgements = Acknowledgements(self._acknowledge)
        self._mid = 0
        clocks = CameraClocks(
            lambda _, problem: self.problems.append(problem), most_waiting_seconds=7 * 86_400, clock=lambda: self.now
        )
        self.clocks = clocks
        self.flow = DetectionFlow(
            "stores/store-1",
            self.history,  # type: ignore[arg-type]  # all of a stream that it uses
            self.match,  # type: ignore[arg-type]
            AlertRaiser("stores/store-1", self),  # type: ignore[arg-type]
            self._acknowledgements,
            clocks,
            batch_detections=64,
            batch_wait_seconds=0.001,
            on_sighting=lambda found, appearance, why: self.sightings.append((found.detection_id, why)),
            on_problems=lambda _, problems: self.problems.extend(problems),
        )

    async def see(self, *found: common_pb2.Detection) -> None:
        """Sends a message and waits until it is acknowledged."""
        self._mid += 1
        self._done.clear()
        delivery = self._acknowledgements.open(Token(1, self._mid, 1))
        for each in found:
            self.clocks.correct_all(each.camera, [each])
        self.flow.add(found, delivery)
        self._acknowledgements.done(delivery)
        async with asyncio.timeout(60):
            await self._done.wait()

    def sent(self) -> list[tuple[str, float, list[str]]]:
        """Of each candidate the person, similarity and runners-up."""
        return [
            (_short(each.match.poi), round(each.match.similarity, 3), [_short(other.poi) for other in each.runners_up])
            for request in self.raised
            for each in request.candidates
        ]

    async def RaiseAlerts(
        self,
        request: alert_pb2.RaiseAlertsRequest,
        *,
        timeout: float,  # noqa: ASYNC109  (as gRPC has it)
        wait_for_ready: bool,
    ) -> alert_pb2.RaiseAlertsResponse:
        self.timeouts.append(timeout)
        if self.fails:
            self.on_failure()
            raise grpc.aio.AioRpcError(self.fails.pop(0), grpc.aio.Metadata(), grpc.aio.Metadata())
        self.raised.append(request)
        return alert_pb2.RaiseAlertsResponse(
            alerts=[
                alert_pb2.RaisedAlert(
                    alert="a",
                    created=True,
                    escalation_similarity=each.match.similarity + self.margin if self.margin else 0,
                )
                for each in request.candidates
            ]
        )

    def _acknowledge(self, token: Token) -> None:
        self._done.set()

    def _append(self, request: history_pb2.AppendDetectionsRequest) -> history_pb2.AppendDetectionsResponse:
        """One appearance for each object; times as history takes them."""
        response = history_pb2.AppendDetectionsResponse()
        for index, each in enumerate(request.detections):
            if not -7 * 86_400 <= each.detect_time.ToSeconds() - self.now <= 300:
                late = InvalidArgument("refused", reason="TIME_OUT_OF_RANGE")
                response.errors.add(index=index, item_id=each.detection_id, status=to_status(late))
                continue
            kept = self.stored.setdefault(each.detection_id, each)
            response.stored.add(
                detection_id=each.detection_id, appearance=f"stores/store-1/appearances/{kept.object_id}"
            )
        return response

    def _match(self, request: match_pb2.MatchDetectionsRequest) -> match_pb2.MatchDetectionsResponse:
        ids = [each.detection_id for each in request.detections]
        self.asked.append(ids)
        return match_pb2.MatchDetectionsResponse(
            results=[
                match_pb2.DetectionMatches(detection_id=each, matches=self.matches[each])
                for each in ids
                if self.matches.get(each)
            ]
        )


class _Stream:
    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self.delays: list[float] = []

    async def send(self, request: Any) -> Any:
        answer = self._answer(request)
        await asyncio.sleep(self.delays.pop(0) if self.delays else 0)
        return answer


def _short(name: str) -> str:
    return name.rpartition("/")[2]


@pytest.fixture
async def services() -> Services:
    return Services()


async def frames(services: Services, *found: list[match_pb2.Match], start: int = 0) -> None:
    """Frames of one person's appearance, each with what its face matches."""
    for number, matches in enumerate(found, start):
        face = detection(unit(1), at=number / 10)
        services.matches[face.detection_id] = matches
        await services.see(face)


async def test_a_better_match_is_sent_again_and_what_says_nothing_new_is_not(services: Services) -> None:
    await frames(services, *([match("p", value)] for value in (0.50, 0.505, 0.49, 0.51, 0.60, 0.60, 0.2)))
    assert services.sent() == [("p", 0.5, []), ("p", 0.51, []), ("p", 0.6, [])]
    assert [why for _, why in services.sightings].count(history_pb2.FRAME_KIND_MATCH) == 1


async def test_a_better_match_is_sent_again_when_it_escalates(services: Services) -> None:
    services.margin = 0.1
    await frames(services, *([match("p", value)] for value in (0.50, 0.51, 0.59, 0.60, 0.69, 0.70, 0.75)))
    assert services.sent() == [("p", 0.5, []), ("p", 0.6, []), ("p", 0.7, [])]


async def test_a_runner_up_who_is_much_better_by_now_is_sent_again(services: Services) -> None:
    services.margin = 0.1
    ann = match("ann", 0.6)
    await frames(services, *([ann, match("bea", value)] for value in (0.46, 0.5, 0.52, 0.55, 0.57)))
    assert [each.runners_up[0].similarity for request in services.raised for each in request.candidates] == [
        pytest.approx(value) for value in (0.46, 0.52, 0.57)
    ]


async def test_a_person_who_matters_more_by_now_is_sent_again(services: Services) -> None:
    await frames(services, [match("p", 0.6, LOW)], [match("p", 0.5, HIGH)], [match("p", 0.5, LOW)])
    assert [each.match.severity for request in services.raised for each in request.candidates] == [LOW, HIGH]


async def test_twins_are_sent_with_each_other_and_again_when_one_drops_out(services: Services) -> None:
    ann, bea = match("ann", 0.6), match("bea", 0.55)
    await frames(services, [ann, bea], [ann, bea], [match("bea", 0.61), ann], [match("bea", 0.61), ann], [bea], [bea])
    assert services.sent() == [("ann", 0.6, ["bea"]), ("bea", 0.61, ["ann"]), ("bea", 0.55, [])]


async def test_frames_of_one_batch_are_sent_in_order_as_far_as_they_say_more(services: Services) -> None:
    faces = [detection(unit(1), at=number / 10) for number in range(4)]
    for face, value in zip(faces, (0.5, 0.5, 0.7, 0.6), strict=True):
        services.matches[face.detection_id] = [match("p", value)]
    await services.see(*faces)
    assert services.sent() == [("p", 0.5, []), ("p", 0.7, [])]
    assert len(services.raised) == 1


async def test_who_was_deleted_while_alerts_were_away_raises_none(services: Services) -> None:
    services.fails = [grpc.StatusCode.UNAVAILABLE] * 4  # half a second
    services.on_failure = services.matches.clear
    await frames(services, [match("p", 0.6)])
    assert services.raised == []
    assert len(services.asked) == 2


async def test_who_was_deleted_while_history_was_slow_raises_none(services: Services) -> None:
    services.history.delays = [0.3]
    asyncio.get_running_loop().call_later(0.1, services.matches.clear)
    await frames(services, [match("p", 0.6)])
    assert services.raised == []


async def test_a_busy_alert_service_gets_longer_deadlines_and_few_calls(services: Services) -> None:
    services.fails = [grpc.StatusCode.DEADLINE_EXCEEDED] * 3
    await frames(services, [match("p", 0.6)], [match("p", 0.8)])
    assert services.timeouts == [2, 4, 8, 16, 8]
    assert services.sent() == [("p", 0.6, []), ("p", 0.8, [])]


def test_what_was_sent_is_remembered_in_bounds() -> None:
    memory, sent = SentMatches(3), Sent(0.5, 1, 0.51, frozenset(), {})
    for number in range(5):
        memory.keep({("a", str(number)): sent})
    assert len(memory) == 3
    assert memory.get(("a", "2")) == sent
    memory.keep({("a", "5"): sent})
    assert ("a", "2") in memory
    assert ("a", "3") not in memory


def test_ever_new_runners_up_are_news_a_few_times_only() -> None:
    before, times = after(None, match("p", 0.5), []), 0
    for number in range(100):
        found = after(before, match("p", 0.5), [match(f"q{number}", 0.46)])
        times, before = times + (found is not None), found or before
    assert times == 10


@pytest.mark.parametrize("wrong", [86_400.0, 301.0, -8 * 86_400.0, -50 * 365 * 86_400.0])
async def test_a_camera_with_a_wrong_clock_alerts_at_the_time_of_arrival(services: Services, wrong: float) -> None:
    services.now = NOON + 5
    for number in range(3):
        services.now += 0.1
        face = detection(unit(1), at=wrong + 5 + number / 10)
        services.matches[face.detection_id] = [match("p", 0.6 + number / 10)]
        await services.see(face)
    (first, *more) = [each for request in services.raised for each in request.candidates]
    assert first.detect_time.ToMilliseconds() == round((NOON + 5.1) * 1000)
    assert [each.detect_time.ToMilliseconds() - first.detect_time.ToMilliseconds() for each in more] == [100, 200]
    assert {each.appearance for each in (first, *more)} == {first.appearance}
    assert [problem.reason for problem in services.problems] == ["CLOCK_SKEW"]


async def test_a_message_that_comes_again_is_the_same_detection_though_its_time_was_moved(services: Services) -> None:
    for later in (0.0, 30.0):
        services.now = NOON + later
        face = detection(unit(1), at=86_400.0)
        services.matches[face.detection_id] = [match("p", 0.6)]
        await services.see(face)
    assert len(services.stored) == 1
    assert services.sent() == [("p", 0.6, [])]


async def test_a_message_that_waited_longer_than_history_keeps_is_no_wrong_clock(services: Services) -> None:
    services.now = NOON + 8 * 86_400
    clocks = services.clocks
    clocks._most_waiting_ms = 30 * 86_400_000  # the broker keeps more than history
    await frames(services, [match("p", 0.6)])
    assert services.raised == []
    assert [problem.reason for problem in services.problems] == ["TIME_OUT_OF_RANGE"]


def test_a_clock_that_is_set_right_is_left_alone_from_then_on() -> None:
    now, told = [1000.0], list[Problem]()
    clocks = CameraClocks(lambda _, problem: told.append(problem), most_waiting_seconds=60, clock=lambda: now[0] + NOON)
    face = detection(at=86_400.0)
    assert clocks.refused(face)
    camera = face.camera
    day = round(NOON * 1000) + 86_400_000
    assert clocks.correct(camera, day + 40) == round((NOON + 1000) * 1000), "never in the future"
    now[0] += 10
    assert clocks.correct(camera, day + 5000) == round((NOON + 1005) * 1000) - 40, "spacing is the camera's"
    now[0] += 600
    clocks.correct(camera, day + 610_000)
    right = round((NOON + now[0]) * 1000) - 50
    assert clocks.correct(camera, right) == right
    assert clocks.correct("stores/store-1/cameras/other", 5) == 5
    assert len(clocks) == 0
    assert [problem.message for problem in told] == [
        "the camera's clock is 85400 s ahead: its frames get the time they arrive at"
    ] * 2
