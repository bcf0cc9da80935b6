"""Stops an enrolment or an erasure that needs a second person, or that none is needed any more, until one has approved
this very request."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from poi.v1 import approval_pb2, audit_pb2

from mesh import names, redis
from mesh.approvals.store import APPROVED, REJECTED, USED, Approvals, updated
from mesh.audit import record
from mesh.audit.actor import actor_of, metadata_of, purpose_of
from mesh.audit.paths import text_at, value_at
from mesh.audit.recorder import store_of
from mesh.errors import FailedPrecondition, MeshError, Unauthenticated
from mesh.interceptors.base import Behaviour, Interceptor, Rpc
from mesh.peers import peer_of
from mesh.settings import program_name, refuse
from mesh.vault.settings import VaultSettings, vault_of

ENROLMENT: Final = "enrolment"
ERASURE: Final = "erasure"
SETTINGS: Final = "settings"
"""Whether a second person is needed: to say that none is any more needs one."""
WAITS: Final[Mapping[str, tuple[str, str]]] = {
    "poi.v1.PoiService/CreatePoi": (ENROLMENT, "parent"),
    "poi.v1.PoiService/AddReference": (ENROLMENT, "poi"),
    "poi.v1.PoiService/ImportPois": (ENROLMENT, "request.parent"),
    "poi.v1.PoiService/DeletePoi": (ERASURE, "name"),
    "poi.v1.PoiService/DeleteReference": (ERASURE, "name"),
    "poi.v1.HistoryService/EraseAppearances": (ERASURE, "parent"),
    "poi.v1.ErasureService/ErasePerson": (ERASURE, "parent"),
    "poi.v1.ApprovalService/UpdateApprovalSettings": (SETTINGS, "approval_settings.name"),
}
"""Method -> what it is, and the path of the request's field that it is about."""
_REPEAT_NS: Final = 600 * 10**9
"""A request with an id that was used just now may come again because its answer was lost: the service knows it."""


class ApprovalInterceptor(Interceptor):
    """See the module. It runs inside authorisation, and around the audit records."""

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Ask before what `WAITS` names; nothing of others."""
        action = f"{rpc.service}/{rpc.method}"
        if action not in WAITS:
            return behaviour
        kind, path = WAITS[action]

        if rpc.request_streaming:

            async def run_stream(requests: Any, context: Any) -> Any:
                return await behaviour(self._alone(requests, kind, path), context)

            return run_stream

        async def run(request: Any, context: Any) -> Any:
            resource = text_at(request, path)
            if value_at(request, "validate_only") or not await self._needed(kind, resource, request):
                return await behaviour(request, context)
            name, own = await self._use(action, resource, request, context)
            try:
                answer = await behaviour(request, context)
            except MeshError:
                # What was cut off may have been done: that may come again with its request id alone. A repeat gives
                # nothing back either, as what it repeats was done.
                if own:
                    await self._approvals.change(name, _give_back)
                raise
            await self._approvals.drop_request(name)
            return answer

        return run

    async def _needed(self, kind: str, resource: str, request: Any) -> bool:
        store = store_of(resource)
        if not store:
            return False
        settings = await self._approvals.settings(store)
        if kind == SETTINGS:
            wanted = updated(settings, request)
            return any(getattr(settings, each) and not getattr(wanted, each) for each in (ENROLMENT, ERASURE))
        return bool(getattr(settings, kind))

    async def _alone(self, requests: Any, kind: str, path: str) -> Any:
        """The rows of a stream, unless a store needs a second person for each: nobody can look at thousands."""
        async for request in requests:
            if await self._needed(kind, text_at(request, path), request):
                why = "this store needs a second person for each enrolment: send them one by one"
                raise FailedPrecondition(why, reason="APPROVAL_REQUIRED")
            yield request

    async def _use(self, action: str, resource: str, request: Any, context: Any) -> tuple[str, bool]:
        """The name of the approval that was used, and whether by this very call rather than by one that it repeats.

        Raises FailedPrecondition where there is none yet.
        """
        metadata = metadata_of(context)
        actor = actor_of(metadata)
        if not actor.name:
            raise Unauthenticated("say who you are: metadata `actor`", reason="ACTOR_REQUIRED")
        store = store_of(resource)
        name = names.approval(store, _id(action, actor, request))
        found = await self._approvals.find(name)
        if found is not None and found.state == APPROVED:
            await self._approvals.change(name, partial(_use, text_at(request, "request_id")))
            return name, True
        if found is not None and _just_used(found, text_at(request, "request_id")):
            return name, False
        if found is not None and found.state == REJECTED:
            refused = FailedPrecondition(
                f"{name} was rejected by {found.approver.name}", reason="APPROVAL_REJECTED", metadata={"approval": name}
            )
            await self._tell(action, resource, actor, purpose_of(metadata), context, refused)
            raise refused
        settings = await self._approvals.settings(store)
        wanted = approval_pb2.Approval(
            name=name, action=action, resource=resource, requester=actor, purpose=purpose_of(metadata)
        )
        await self._approvals.ask(wanted, request, settings.valid_for.ToNanoseconds() / 1e9)
        waits = FailedPrecondition(
            f"a second person must approve {name}; then send the same request again",
            reason="APPROVAL_REQUIRED",
            metadata={"approval": name},
        )
        await self._tell(action, resource, actor, purpose_of(metadata), context, waits)
        raise waits

    async def _tell(
        self, action: str, resource: str, actor: audit_pb2.AuditActor, purpose: str, context: Any, error: MeshError
    ) -> None:
        await record(
            action,
            resource,
            error.code.name,
            actor=actor,
            purpose=purpose,
            peer=peer_of(context),
            reason=error.reason,
            approval=error.metadata["approval"],
        )


def name_of(action: str, actor: audit_pb2.AuditActor, store: str, request: Any) -> str:
    """The name of the approval that this very request of this person has, or would have."""
    return names.approval(store, _id(action, actor, request))


def added(settings: VaultSettings) -> tuple[list[Interceptor], list[Callable[[], Awaitable[None]]]]:
    """What a server that enrols or erases needs: interceptors, and what closes them. Nothing where it is off.

    Ends the process with one line when there is no vault for the requests.
    """
    if not settings.approvals_redis_url:
        return [], []
    vault = vault_of(settings)
    if vault is None:
        refuse(program_name(type(settings)), "POI_APPROVALS_REDIS_URL: needs POI_VAULT_KEYRING: requests wait sealed")
    client = redis.connect(settings.approvals_redis_url)
    return [ApprovalInterceptor(Approvals(client, vault))], [client.aclose]


def _id(action: str, actor: audit_pb2.AuditActor, request: Any) -> str:
    """The same for the same request of the same person, whatever its request id, and of nothing else."""
    content = type(request)()
    content.CopyFrom(request)
    if "request_id" in content.DESCRIPTOR.fields_by_name:
        content.ClearField("request_id")
    who = f"{actor.kind}\0{actor.name}\0{action}\0".encode()
    return hashlib.sha256(who + content.SerializeToString(deterministic=True)).hexdigest()[:32]


def _just_used(approval: approval_pb2.Approval, request_id: str) -> bool:
    again = approval.state == USED and request_id != "" and approval.request_id == request_id
    return again and time.time_ns() - approval.use_time.ToNanoseconds() < _REPEAT_NS


def _use(request_id: str, approval: approval_pb2.Approval) -> None:
    if approval.state != APPROVED:
        raise FailedPrecondition(
            f"{approval.name} was used meanwhile", reason="APPROVAL_REQUIRED", metadata={"approval": approval.name}
        )
    approval.state, approval.request_id = USED, request_id
    approval.use_time.GetCurrentTime()


def _give_back(approval: approval_pb2.Approval) -> None:
    """It was not done, so it may be tried again."""
    approval.state = APPROVED
    approval.ClearField("use_time")
