"""Feedback: say what a match was, list what was said, and see which threshold it speaks for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from poi.v1 import feedback_pb2, feedback_pb2_grpc

from clients.cli import output
from clients.cli.alerts import Actor, Note
from clients.cli.options import Cameras, Json, Limit, Pois, Since, Until, interval
from clients.cli.session import Mesh, execute, pages
from mesh import names

feedback = typer.Typer(help="What people said of matches.", no_args_is_help=True)


class Verdict(StrEnum):
    """As in the contract, for people to type."""

    CONFIRMED = "CONFIRMED"
    NOT_THIS_PERSON = "NOT_THIS_PERSON"

    @property
    def number(self) -> feedback_pb2.MatchVerdict.ValueType:
        """The contract's value."""
        return feedback_pb2.MatchVerdict.Value(f"MATCH_VERDICT_{self.value}")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    feedback.command()(report)
    feedback.command("list")(list_reports)
    app.add_typer(feedback, name="feedback")
    app.command()(suggest)


def report(
    context: typer.Context,
    appearance: Annotated[str, typer.Argument(metavar="APPEARANCE", help="Id or name of the appearance.")],
    poi: Annotated[str, typer.Argument(metavar="POI", help="Id or name of the person.")],
    verdict: Annotated[Verdict, typer.Argument(metavar="VERDICT", case_sensitive=False, help="What it was.")],
    actor: Actor,
    note: Note = "",
    camera: Annotated[str, typer.Option(metavar="CAMERA", help="Where, if there was no alert.")] = "",
    similarity: Annotated[
        float | None, typer.Option(min=-1, max=1, metavar="COSINE", help="How similar, if there was no alert.")
    ] = None,
    json: Json = False,
) -> None:
    """Says that an appearance is of a person (CONFIRMED), or is not (NOT_THIS_PERSON): then it alerts no more.

    An open alert of the two is confirmed or rejected with it.
    """
    mesh: Mesh = context.obj

    async def run() -> None:
        request = feedback_pb2.ReportMatchRequest(
            parent=mesh.parent,
            appearance=mesh.name(names.appearance, appearance),
            poi=mesh.name(names.poi, poi),
            verdict=verdict.number,
            actor=mesh.actor(actor),
            note=note,
            camera=mesh.name(names.camera, camera) if camera else "",
        )
        if similarity is not None:
            request.match.similarity = similarity
        async with mesh.channel("alert") as channel:
            kept = await feedback_pb2_grpc.FeedbackServiceStub(channel).ReportMatch(request)
        if json:
            output.print_json(kept)
            return
        output.print_line(output.short(kept.appearance), output.short(kept.poi), _verdict(kept), f"by {kept.actor}")

    execute(run())


def list_reports(
    context: typer.Context,
    verdict: Annotated[Verdict | None, typer.Option(case_sensitive=False, help="Only with this verdict.")] = None,
    poi: Pois = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Lists what was said, latest first."""
    mesh: Mesh = context.obj

    async def run() -> None:
        request = feedback_pb2.ListMatchReportsRequest(
            parent=mesh.parent,
            verdict=verdict.number if verdict else feedback_pb2.MATCH_VERDICT_UNSPECIFIED,
            pois=[mesh.name(names.poi, each) for each in poi or ()],
        )
        async with mesh.channel("alert") as channel:
            stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
            page = await pages(stub.ListMatchReports, request, "match_reports", limit)
        if json:
            output.print_json(page)
            return
        output.print_table(
            ("REPORTED", "VERDICT", "WHO", "CAMERA", "SIMILARITY", "BY", "NOTE", "APPEARANCE"),
            (
                (
                    output.clock(each.report_time),
                    _verdict(each),
                    each.match.display_name or output.short(each.poi),
                    output.short(each.camera),
                    f"{each.match.similarity:.2f}" if each.HasField("match") else "",
                    each.actor,
                    each.note,
                    output.short(each.appearance),
                )
                for each in page.match_reports
            ),
            nothing="no reports",
        )
        output.print_more(page, limit)

    execute(run())


def suggest(
    context: typer.Context,
    watchlist: Annotated[str, typer.Option(metavar="LIST", help="Only matches on this watchlist.")] = "",
    poi: Annotated[str, typer.Option(metavar="POI", help="Only matches of this person.")] = "",
    camera: Cameras = None,
    since: Since = None,
    until: Until = None,
    max_missed: Annotated[
        float, typer.Option(min=0, max=0.5, metavar="SHARE", help="Of the confirmed matches, so many may be missed.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Says what other thresholds would have done to the matches that people spoke of. Changes nothing."""
    mesh: Mesh = context.obj

    async def run() -> None:
        request = feedback_pb2.SuggestThresholdRequest(
            parent=mesh.parent,
            watchlist=mesh.name(names.watchlist, watchlist) if watchlist else "",
            poi=mesh.name(names.poi, poi) if poi else "",
            cameras=[mesh.name(names.camera, each) for each in camera or ()],
            interval=interval(since, until),
            max_missed_share=max_missed,
        )
        async with mesh.channel("alert", seconds=60) as channel:
            found = await feedback_pb2_grpc.FeedbackServiceStub(channel).SuggestThreshold(request)
        if json:
            output.print_json(found)
            return
        best = found.suggestion if found.HasField("suggestion") else None
        output.print_table(
            ("THRESHOLD", "CONFIRMED KEPT", "MISSED", "FALSE KEPT", "AVOIDED", ""),
            (
                (
                    f"{each.threshold:.2f}",
                    each.confirmed_kept,
                    each.confirmed_missed,
                    each.false_kept,
                    each.false_avoided,
                    "suggested" if each == best else "",
                )
                for each in found.outcomes
            ),
            nothing="no reports with a match",
        )
        output.print_line(f"{found.confirmed_count} confirmed, {found.false_count} false")
        if best is None:
            output.print_line("no suggestion: too little was said, or nothing speaks for another threshold")
        else:
            output.print_line(
                f"suggested: {best.threshold:.2f}",
                f"avoids {best.false_avoided} of {found.false_count} false matches",
                f"misses {best.confirmed_missed} of {found.confirmed_count} confirmed ones",
            )

    execute(run())


def _verdict(report: feedback_pb2.MatchReport) -> str:
    return feedback_pb2.MatchVerdict.Name(report.verdict).removeprefix("MATCH_VERDICT_")
