"""Detections through history and match to alerts, in batches.

A batch goes to history and to match at the same time; both have answered when the alerts are raised; then its
messages are done. A batch leaves when it is full, or when its wait is over and no other is being stored and matched: so
a quiet store has its alerts at once, and a busy one has full batches without anybody tuning. (With two on the way at a
time, and so smaller batches, a mesh on two cores spent 30 % more on each detection and fell behind at 5,200/s.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog
from poi.v1 import alert_pb2, common_pb2, history_pb2, match_pb2

from ingest_svc.acknowledgements import Acknowledgements, Delivery
from ingest_svc.alerts import AlertRaiser
from ingest_svc.batch_stream import BatchStream
from ingest_svc.best_faces import BestFaces
from ingest_svc.clocks import CameraClocks
from ingest_svc.rejections import Problem
from ingest_svc.sent import Key, Sent, SentMatches, after
from mesh import errors

_log = structlog.get_logger(__name__)

HistoryStream = BatchStream[history_pb2.AppendDetectionsRequest, history_pb2.AppendDetectionsResponse]
MatchStream = BatchStream[match_pb2.MatchDetectionsRequest, match_pb2.MatchDetectionsResponse]
OnSighting = Callable[[common_pb2.Detection, str, "history_pb2.FrameKind.ValueType"], None]
OnStored = Callable[[common_pb2.Detection, str], None]
OnProblems = Callable[[str, Sequence[Problem]], None]

_MOST_MATCHES = 21
"""Of one face: the best, and more runners-up than an alert names."""
_STALE_SECONDS = 0.25
"""Matches older than that are asked for again before they raise an alert: whoever was deleted, or moved off a list,
while history or alert kept us waiting raises none."""
_BEST_EVERY_SECONDS = 2.0
"""How often an appearance is worth another frame because its face is better: cameras have more to do."""


class DetectionFlow:
    """Batches detections and sees each batch through."""

    def __init__(
        self,
        parent: str,
        history: HistoryStream,
        match: MatchStream,
        alerts: AlertRaiser,
        acknowledgements: Acknowledgements,
        clocks: CameraClocks,
        *,
        batch_detections: int,
        batch_wait_seconds: float,
        on_sighting: OnSighting,
        on_stored: OnStored | None = None,
        on_problems: OnProblems,
    ) -> None:
        """`on_sighting` hears of new appearances, alerts and better faces, `on_problems(camera, ...)` of refusals.

        `on_stored(detection, appearance)` hears of every detection.
        """
        self._parent = parent
        self._history = history
        self._match = match
        self._alerts = alerts
        self._acknowledgements = acknowledgements
        self._clocks = clocks
        self._batch_size = batch_detections
        self._batch_wait = batch_wait_seconds
        self._on_sighting = on_sighting
        self._on_stored = on_stored
        self._on_problems = on_problems
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[common_pb2.Detection, Delivery]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._overdue = False
        self._asked = 0  # batches that history and match have yet to answer
        self._under_way: set[asyncio.Task[None]] = set()
        self.sent = self._sent = SentMatches()
        """Which matches the alert service knows."""
        self._best_faces = BestFaces(_BEST_EVERY_SECONDS)
        self.detections = 0
        """Detections that history and match have taken."""
        self.raised_alerts = 0
        """Alerts that were raised for the first time."""

    def add(self, detections: Iterable[common_pb2.Detection], delivery: Delivery) -> None:
        """Take the detections of one message; each becomes a part that the delivery waits for."""
        for detection in detections:
            delivery.waiting += 1
            self._queue.append((detection, delivery))
        while len(self._queue) >= self._batch_size:
            self._send()
        if self._queue and self._timer is None and not self._overdue:
            self._timer = self._loop.call_later(self._batch_wait, self._wait_over)

    async def close(self) -> None:
        """Give up what is under way: it was not acknowledged, so the broker sends it again."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _wait_over(self) -> None:
        self._timer = None
        if self._asked:
            self._overdue = True
        else:
            self._send()

    def _send(self) -> None:
        items, self._queue = self._queue[: self._batch_size], self._queue[self._batch_size :]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._overdue = False
        if items:
            task = self._loop.create_task(self._see_through(items))
            self._under_way.add(task)
            task.add_done_callback(self._ended)
        if self._queue:
            self._timer = self._loop.call_later(self._batch_wait, self._wait_over)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its messages stay unacknowledged: the broker sends them again on the next connection.
            _log.error("batch_failed", error=type(error).__name__, exc_info=error)

    async def _see_through(self, items: list[tuple[common_pb2.Detection, Delivery]]) -> None:
        try:
            await self._store_and_match(items)
        except errors.MeshError as error:
            if len(items) > 1:  # one of them is what nobody can take: find it, and use the others
                middle = len(items) // 2
                await self._see_through(items[:middle])
                await self._see_through(items[middle:])
                return
            detection = items[0][0]
            self._on_problems(detection.camera, [Problem(error.reason, _item_field(detection), str(error))])
        self._finish(items)

    def _finish(self, items: list[tuple[common_pb2.Detection, Delivery]]) -> None:
        for _, delivery in items:
            self._acknowledgements.done(delivery)

    async def _store_and_match(
        self, items: list[tuple[common_pb2.Detection, Delivery]], *, is_corrected: bool = False
    ) -> None:
        detections = [detection for detection, _ in items]
        faces = [detection for detection in detections if detection.HasField("embedding")]
        self._asked += 1
        asked = self._loop.time()
        try:
            stored, matched = await self._ask(detections, faces)
        finally:
            self._asked -= 1
            if self._overdue and not self._asked:
                self._send()
        appearances = {item.detection_id: item.appearance for item in stored.stored}
        await self._raise_alerts(detections, matched, asked, appearances)
        self.detections += 0 if is_corrected else len(detections)
        firsts = {item.detection_id for item in stored.stored if item.first}
        if firsts:
            for detection in detections:
                if detection.detection_id in firsts:
                    appearance = appearances[detection.detection_id]
                    self._on_sighting(detection, appearance, history_pb2.FRAME_KIND_ENTRY)
                    self._best_faces.began(appearance, detection)
        for detection in faces:
            of = appearances.get(detection.detection_id)
            if of is not None and self._best_faces.better(of, detection):
                self._on_sighting(detection, of, history_pb2.FRAME_KIND_BEST)
        if self._on_stored is not None:
            for detection in detections:
                of = appearances.get(detection.detection_id)
                if of is not None:
                    self._on_stored(detection, of)
        if stored.errors or matched.errors:
            moved = set[int]()
            if not is_corrected:
                late = [item.index for item in stored.errors if _is_clock(item)]
                moved = {index for index in late if self._clocks.refused(detections[index])}
            self._report(detections, [item for item in stored.errors if item.index not in moved])
            self._report(faces, matched.errors)
            if moved:
                await self._store_and_match([items[index] for index in sorted(moved)], is_corrected=True)

    async def _ask(
        self, detections: list[common_pb2.Detection], faces: list[common_pb2.Detection]
    ) -> tuple[history_pb2.AppendDetectionsResponse, match_pb2.MatchDetectionsResponse]:
        storing = self._history.send(history_pb2.AppendDetectionsRequest(parent=self._parent, detections=detections))
        if not faces:
            return await storing, match_pb2.MatchDetectionsResponse()
        return await asyncio.gather(
            storing, self._match.send(match_pb2.MatchDetectionsRequest(parent=self._parent, detections=faces))
        )

    async def _raise_alerts(
        self,
        detections: list[common_pb2.Detection],
        matched: match_pb2.MatchDetectionsResponse,
        asked: float,
        appearances: dict[str, str],
    ) -> None:
        by_id = {detection.detection_id: detection for detection in detections}
        results, sent = matched.results, dict[Key, Sent]()
        candidates: list[alert_pb2.AlertCandidate] = []

        async def fresh() -> list[alert_pb2.AlertCandidate]:
            nonlocal asked, results, candidates, sent
            if self._loop.time() - asked > _STALE_SECONDS:
                asked = self._loop.time()
                again = [by_id[candidate.detection_id] for candidate in candidates]
                request = match_pb2.MatchDetectionsRequest(parent=self._parent, detections=again)
                results = (await self._match.send(request)).results
            candidates, sent = self._news(results, by_id, appearances)
            return candidates

        candidates, sent = self._news(results, by_id, appearances)
        if not candidates:
            return
        answers = await self._alerts.raise_alerts(fresh)
        self.raised_alerts += sum(answer.created for answer in answers)
        firsts = {(candidate.appearance, candidate.match.poi): candidate for candidate in reversed(candidates)}
        for key, candidate in firsts.items():
            if key not in self._sent:
                self._on_sighting(by_id[candidate.detection_id], candidate.appearance, history_pb2.FRAME_KIND_MATCH)
        for candidate, answer in zip(candidates, answers, strict=True):
            key = candidate.appearance, candidate.match.poi
            sent[key] = sent[key].known(answer.escalation_similarity)
        self._sent.keep(sent)

    def _news(
        self,
        results: Iterable[match_pb2.DetectionMatches],
        by_id: dict[str, common_pb2.Detection],
        appearances: dict[str, str],
    ) -> tuple[list[alert_pb2.AlertCandidate], dict[Key, Sent]]:
        """What the alert service does not know yet, in order, and what will then have been sent."""
        candidates, sent = list[alert_pb2.AlertCandidate](), dict[Key, Sent]()
        for result in results:
            appearance = appearances.get(result.detection_id)
            if appearance is None or not result.matches:  # refused by history, which says why
                continue
            best, *others = result.matches[:_MOST_MATCHES]
            key = (appearance, best.poi)
            news = after(sent.get(key) or self._sent.get(key), best, others)
            if news is not None:
                sent[key] = news
                candidates.append(_candidate(by_id[result.detection_id], appearance, best, others))
        return candidates, sent

    def _report(self, sent: list[common_pb2.Detection], refused: Iterable[common_pb2.ItemError]) -> None:
        for item in refused:
            detection = sent[item.index]
            error = errors.from_status(item.status)
            self._on_problems(detection.camera, [Problem(error.reason, _item_field(detection), str(error))])


def _candidate(
    detection: common_pb2.Detection, appearance: str, best: match_pb2.Match, others: Iterable[match_pb2.Match]
) -> alert_pb2.AlertCandidate:
    candidate = alert_pb2.AlertCandidate(
        match=best,
        appearance=appearance,
        camera=detection.camera,
        detection_id=detection.detection_id,
        detect_time=detection.detect_time,
        runners_up=others,
    )
    for box in ("person_box", "face_box"):
        if detection.HasField(box):
            getattr(candidate, box).CopyFrom(getattr(detection, box))
    return candidate


def _is_clock(item: common_pb2.ItemError) -> bool:
    return errors.from_status(item.status).reason == "TIME_OUT_OF_RANGE"


def _item_field(detection: common_pb2.Detection) -> str:
    return f"object {detection.object_id}"
