"""ApprovalService: lets a second person decide."""

from __future__ import annotations

from typing import Any, Final

from poi.v1 import approval_pb2, approval_pb2_grpc, audit_pb2

from mesh import names, pages
from mesh.approvals.store import APPROVED, PENDING, REJECTED, Approvals, updated
from mesh.audit.actor import actor_of, metadata_of
from mesh.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unauthenticated
from mesh.principal import current

SERVICE: Final = "poi.v1.ApprovalService"
_SETTINGS: Final = f"{SERVICE}/UpdateApprovalSettings"
_DEFAULT_PAGE, _MAX_PAGE = 50, 1000


class ApprovalServicer(approval_pb2_grpc.ApprovalServiceServicer):
    """Serves ApprovalService."""

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals

    async def ListApprovals(
        self, request: approval_pb2.ListApprovalsRequest, context: Any
    ) -> approval_pb2.ListApprovalsResponse:
        """Newest first."""
        (store,) = names.parse_store(request.parent)
        size = pages.clamp(request.page_size, _DEFAULT_PAGE, _MAX_PAGE)
        before = pages.decode(request.page_token, request, before=pages.number).get("before")
        found = await self._approvals.newest(store, before, size)
        response = approval_pb2.ListApprovalsResponse(
            approvals=[
                approval
                for _, approval in found
                if approval is not None and request.state in (approval_pb2.APPROVAL_STATE_UNSPECIFIED, approval.state)
            ]
        )
        if len(found) == size:
            response.next_page_token = pages.encode({"before": found[-1][0]}, request)
        return response

    async def GetApproval(self, request: approval_pb2.GetApprovalRequest, context: Any) -> approval_pb2.Approval:
        """With its request as long as it waits, for who might ask for the same: there are faces in it."""
        found = await self._approvals.get(request.name)
        caller = current()
        if caller is not None:
            from mesh.auth.policy import (
                POLICY,
            )  # with the library that checks signatures, which takes its time to import

            if found.action != _SETTINGS and not caller.roles & POLICY[found.action].roles:
                found.ClearField("request")
        return found

    async def Approve(self, request: approval_pb2.ApproveRequest, context: Any) -> approval_pb2.Approval:
        """By another person than who asked."""
        return await self._decide(request.name, APPROVED, request.note, context)

    async def Reject(self, request: approval_pb2.RejectRequest, context: Any) -> approval_pb2.Approval:
        """By anybody, who asked included: they may think better of it."""
        return await self._decide(request.name, REJECTED, request.note, context)

    async def GetApprovalSettings(
        self, request: approval_pb2.GetApprovalSettingsRequest, context: Any
    ) -> approval_pb2.ApprovalSettings:
        """Of a store."""
        return await self._approvals.settings(_store_of_settings(request.name, "name"))

    async def UpdateApprovalSettings(
        self, request: approval_pb2.UpdateApprovalSettingsRequest, context: Any
    ) -> approval_pb2.ApprovalSettings:
        """Of a store."""
        store = _store_of_settings(request.approval_settings.name, "approval_settings.name")
        await self._approvals.configure(store, updated(await self._approvals.settings(store), request))
        return await self._approvals.settings(store)

    async def _decide(
        self, name: str, state: approval_pb2.ApprovalState.ValueType, note: str, context: Any
    ) -> approval_pb2.Approval:
        actor = actor_of(metadata_of(context))
        if not actor.name:
            raise Unauthenticated("say who you are: metadata `actor`", reason="ACTOR_REQUIRED")

        def decide(approval: approval_pb2.Approval) -> None:
            if state == APPROVED:
                _check_second(actor, approval.requester)
            if approval.state != PENDING:
                now = approval_pb2.ApprovalState.Name(approval.state).removeprefix("APPROVAL_STATE_")
                raise FailedPrecondition(f"{name} is {now}", reason="NOT_PENDING", metadata={"state": now})
            approval.state, approval.note = state, note
            approval.approver.CopyFrom(actor)
            approval.decide_time.GetCurrentTime()

        return await self._approvals.change(name, decide)


def _check_second(actor: audit_pb2.AuditActor, requester: audit_pb2.AuditActor) -> None:
    """Raises PermissionDenied for who may be the same person, by name however that is known, and for a program: whose
    eyes it has nobody knows."""
    if actor.name.strip().casefold() == requester.name.strip().casefold():
        raise PermissionDenied("who asked cannot approve it", reason="SAME_PERSON")
    if actor.kind not in (audit_pb2.ACTOR_KIND_PERSON, audit_pb2.ACTOR_KIND_CLAIMED):
        raise PermissionDenied("a person approves, not a program", reason="PERSON_REQUIRED")


def _store_of_settings(name: str, field: str) -> str:
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "stores" or parts[2] != "approvalSettings":
        raise InvalidArgument(violations=[(field, "must look like stores/{store}/approvalSettings")])
    (store,) = names.parse_store("/".join(parts[:2]), field)
    return store
