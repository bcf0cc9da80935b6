"""poi.v1.FeedbackService: translates between the contract and the reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, feedback_pb2, feedback_pb2_grpc

from alert_svc.alerts import in_store
from alert_svc.feedback import reports, suggest
from alert_svc.log import AlertLog
from alert_svc.times import now
from mesh import names, pages
from mesh.errors import InvalidArgument

SERVICE: Final = "poi.v1.FeedbackService"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stubs only


class FeedbackServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """The contract's methods."""

    def __init__(self, log: AlertLog) -> None:
        self._log = log

    async def ReportMatch(self, request: feedback_pb2.ReportMatchRequest, context: Context) -> feedback_pb2.MatchReport:
        """Keeps what was said, and does to the pair's alert what follows from it."""
        (store_id,) = names.parse_store(request.parent)
        return await self._log.report(reports.requested(request, store_id, now()))

    async def ListMatchReports(
        self, request: feedback_pb2.ListMatchReportsRequest, context: Context
    ) -> feedback_pb2.ListMatchReportsResponse:
        """A page of reports, latest first."""
        (store_id,) = names.parse_store(request.parent)
        _check(names.parse_poi, request.pois, "pois", store_id)
        pois = frozenset(request.pois)
        found, before = await self._log.reports.page(
            store_id,
            lambda report: request.verdict in (0, report.verdict) and (not pois or report.poi in pois),
            before=pages.decode(request.page_token, request, before=pages.text).get("before", ""),
            limit=pages.clamp(request.page_size, 50, 1000),
        )
        token = pages.encode({"before": before}, request) if before else ""
        return feedback_pb2.ListMatchReportsResponse(match_reports=found, next_page_token=token)

    async def SuggestThreshold(
        self, request: feedback_pb2.SuggestThresholdRequest, context: Context
    ) -> feedback_pb2.SuggestThresholdResponse:
        """What other thresholds would have done."""
        (store_id,) = names.parse_store(request.parent)
        if request.watchlist:
            in_store(names.parse_watchlist, request.watchlist, "watchlist", store_id)
        if request.poi:
            in_store(names.parse_poi, request.poi, "poi", store_id)
        _check(names.parse_camera, request.cameras, "cameras", store_id)
        tally = suggest.Tally(
            watchlist=request.watchlist,
            poi=request.poi,
            cameras=request.cameras,
            max_missed_share=request.max_missed_share,
        )
        start, end = _bound(request.interval, "start_time"), _bound(request.interval, "end_time")
        await self._log.reports.visit(store_id, tally.add, start=start, end=end)
        return tally.response()


def _check(parse: Callable[[str, str], tuple[str, str]], values: Any, field: str, store_id: str) -> None:
    for index, name in enumerate(values):
        in_store(parse, name, f"{field}[{index}]", store_id)


def _bound(interval: common_pb2.Interval, field: str) -> Timestamp | None:
    if not interval.HasField(field):  # type: ignore[arg-type]
        return None
    value: Timestamp = getattr(interval, field)
    try:
        value.ToDatetime()
    except (ValueError, OverflowError):
        raise InvalidArgument(violations=[(f"interval.{field}", "is not a time")]) from None
    return value
