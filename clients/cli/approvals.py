"""Four eyes: what waits for a second person, and what of a store needs one."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from poi.v1 import approval_pb2, approval_pb2_grpc

from clients.cli import output
from clients.cli.options import Json, Limit
from clients.cli.session import Mesh, execute, pages
from mesh import names

Name = Annotated[str, typer.Argument(metavar="APPROVAL", help="Its id, or its whole name.")]
Note = Annotated[str, typer.Option(help="A word about it.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    approvals = typer.Typer(help="What waits for a second person.", no_args_is_help=True)
    approvals.command("list")(list_approvals)
    approvals.command()(approve)
    approvals.command()(reject)
    approvals.command()(settings)
    app.add_typer(approvals, name="approvals")


def list_approvals(context: typer.Context, limit: Limit = 50, json: Json = False) -> None:
    """Lists approvals, newest first."""
    mesh: Mesh = context.obj

    async def run() -> Any:
        async with mesh.channel("audit") as channel:
            call = approval_pb2_grpc.ApprovalServiceStub(channel).ListApprovals
            return await pages(call, approval_pb2.ListApprovalsRequest(parent=mesh.parent), "approvals", limit)

    page = execute(run())
    if json:
        output.print_json(page)
        return
    output.print_table(
        ("APPROVAL", "STATE", "WHO ASKS", "WHAT", "ABOUT", "WHY", "SINCE", "DECIDED BY"),
        (
            (
                output.short(each.name),
                approval_pb2.ApprovalState.Name(each.state).removeprefix("APPROVAL_STATE_"),
                each.requester.name,
                each.action.removeprefix("poi.v1."),
                output.short(each.resource),
                each.purpose,
                output.clock(each.create_time),
                each.approver.name,
            )
            for each in page.approvals
        ),
        nothing="nothing waits",
    )
    output.print_more(page, limit)


def approve(context: typer.Context, approval: Name, note: Note = "") -> None:
    """Lets what somebody else asked for be done, once, when they send it again."""
    _decide(context.obj, approval, note, "Approve")


def reject(context: typer.Context, approval: Name, note: Note = "") -> None:
    """Refuses what was asked for."""
    _decide(context.obj, approval, note, "Reject")


def settings(
    context: typer.Context,
    enrolment: Annotated[bool | None, typer.Option(help="Enrolments need a second person.")] = None,
    erasure: Annotated[bool | None, typer.Option(help="Erasures need a second person.")] = None,
) -> None:
    """Shows what of the store needs a second person, and changes it."""
    mesh: Mesh = context.obj

    async def run() -> approval_pb2.ApprovalSettings:
        name = f"{mesh.parent}/approvalSettings"
        wanted = approval_pb2.ApprovalSettings(name=name, enrolment=bool(enrolment), erasure=bool(erasure))
        said = {"enrolment": enrolment, "erasure": erasure}
        paths = [field for field, value in said.items() if value is not None]
        async with mesh.channel("audit") as channel:
            stub = approval_pb2_grpc.ApprovalServiceStub(channel)
            found: approval_pb2.ApprovalSettings
            if paths:
                request = approval_pb2.UpdateApprovalSettingsRequest(approval_settings=wanted)
                request.update_mask.paths.extend(paths)
                found = await stub.UpdateApprovalSettings(request)
            else:
                found = await stub.GetApprovalSettings(approval_pb2.GetApprovalSettingsRequest(name=name))
        return found

    found = execute(run())
    for field in ("enrolment", "erasure"):
        needs = "needs a second person" if getattr(found, field) else "needs nobody else"
        output.print_line(f"{field}: {needs}")


def _decide(mesh: Mesh, approval: str, note: str, method: str) -> None:
    async def run() -> approval_pb2.Approval:
        name = mesh.name(names.approval, approval)
        requests = {"Approve": approval_pb2.ApproveRequest, "Reject": approval_pb2.RejectRequest}
        async with mesh.channel("audit") as channel:
            call: Any = getattr(approval_pb2_grpc.ApprovalServiceStub(channel), method)
            done: approval_pb2.Approval = await call(requests[method](name=name, note=note))
            return done

    done = execute(run())
    state = approval_pb2.ApprovalState.Name(done.state).removeprefix("APPROVAL_STATE_")
    output.print_line(f"{output.short(done.name)}: {state}")
