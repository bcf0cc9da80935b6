"""ErasureService: plans, erasures and their receipts."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from poi.v1 import audit_pb2, erasure_pb2, erasure_pb2_grpc

from mesh import names, pages
from mesh.approvals import interceptor
from mesh.approvals.store import USED, Approvals
from mesh.audit.actor import actor_of, metadata_of, purpose_of
from mesh.erasure.eraser import Eraser
from mesh.erasure.looking import Finding, Looking, person_token
from mesh.erasure.receipts import Signer
from mesh.erasure.store import Erasures, Kept, erasure_name
from mesh.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Unavailable

SERVICE: Final = "poi.v1.ErasureService"
_DEFAULT_PAGE, _MAX_PAGE = 50, 1000
_KEY_SUFFIX: Final = "/receiptKey"
_SHOWN: Final = 1000


class ErasureServicer(erasure_pb2_grpc.ErasureServiceServicer):
    """Serves ErasureService."""

    def __init__(
        self,
        erasures: Erasures,
        looking: Looking,
        eraser: Eraser | None,
        signer: Signer | None,
        approvals: Approvals | None,
    ) -> None:
        """Without a `signer`, and `eraser`, there are plans only."""
        self._erasures, self._looking, self._eraser = erasures, looking, eraser
        self._signer, self._approvals = signer, approvals

    async def ErasePerson(self, request: erasure_pb2.ErasePersonRequest, context: Any) -> erasure_pb2.PersonErasure:
        """A plan, or what became of one."""
        (store,) = names.parse_store(request.parent)
        person = request.person
        if not (person.poi or person.appearances or person.photos):
            raise InvalidArgument(violations=[("person", "needs a poi, appearances or photos")])
        if request.validate_only:
            found = await self._looking.person(request.parent, person)
            plan = _plan(request, found)
            await self._erasures.keep_plan(store, plan, found.subject)
            return _shown(plan)
        if not request.request_id or not request.plan:
            missing = [field for field in ("plan", "request_id") if not getattr(request, field)]
            raise InvalidArgument(violations=[(field, "is needed to erase") for field in missing])
        if self._eraser is None:
            raise FailedPrecondition("this server has no key to sign receipts with", reason="NO_RECEIPT_KEY")
        name = erasure_name(store, request.request_id)
        kept = await self._erasures.get(name)
        if kept is None:
            await self._begin(store, name, request, context)
            kept = await self._erasures.get(name)  # somebody may have begun another one with this id meanwhile
        if kept is not None and kept.request not in ("", _digest(name, request)):
            raise InvalidArgument(
                violations=[("request_id", "was used to erase somebody else")], reason="REQUEST_ID_REUSED"
            )
        await self._eraser.carry_out(name)
        return await self._get(name)

    async def GetPersonErasure(
        self, request: erasure_pb2.GetPersonErasureRequest, context: Any
    ) -> erasure_pb2.PersonErasure:
        """How far it is."""
        return await self._get(request.name)

    async def ListPersonErasures(
        self, request: erasure_pb2.ListPersonErasuresRequest, context: Any
    ) -> erasure_pb2.ListPersonErasuresResponse:
        """Newest first."""
        (store,) = names.parse_store(request.parent)
        size = pages.clamp(request.page_size, _DEFAULT_PAGE, _MAX_PAGE)
        before = pages.decode(request.page_token, request, before=pages.number).get("before")
        found = await self._erasures.newest(store, before, size)
        response = erasure_pb2.ListPersonErasuresResponse(person_erasures=[_shown(one) for _, one in found])
        if len(found) == size:
            response.next_page_token = pages.encode({"before": found[-1][0]}, request)
        return response

    async def GetReceiptKey(self, request: erasure_pb2.GetReceiptKeyRequest, context: Any) -> erasure_pb2.ReceiptKey:
        """Public."""
        names.parse_store(request.name.removesuffix(_KEY_SUFFIX), "name")
        if self._signer is None:
            raise NotFound(request.name)
        return erasure_pb2.ReceiptKey(name=request.name, key_id=self._signer.key_id, pem=self._signer.public_pem)

    async def _begin(self, store: str, name: str, request: erasure_pb2.ErasePersonRequest, context: Any) -> None:
        """Writes down what is to be erased, where the plan still holds."""
        planned = await self._erasures.plan(store, request.plan)
        of_person = request.plan.startswith(person_token(request.parent, request.person))
        if planned is None or planned.subject is None or not of_person:
            raise FailedPrecondition("there is no such plan of this person: make one", reason="PLAN_UNKNOWN")
        kept = await self._checked(request, planned)
        record = kept.erasure
        record.name, record.plan = name, request.plan
        record.state = erasure_pb2.ERASURE_STATE_RUNNING
        record.create_time.GetCurrentTime()
        metadata = metadata_of(context)
        record.requester.CopyFrom(actor_of(metadata))
        record.purpose = purpose_of(metadata)
        approver = await self._approver(store, record.requester, request)
        if approver is not None:
            record.approver.CopyFrom(approver)
        assert kept.subject is not None
        await self._erasures.begin(record, kept.subject, _digest(name, request))

    async def _checked(self, request: erasure_pb2.ErasePersonRequest, planned: Kept) -> Kept:
        """What is to be erased now; where somebody does not answer, what the plan says there is."""
        try:
            found = await self._looking.person(request.parent, request.person)
        except Unavailable:
            return planned
        if found.token(request.parent, request.person) != request.plan and not request.allow_newer:
            raise Aborted("there is more, or less, of the person than the plan says: make another", reason="PLAN_STALE")
        return Kept(_plan(request, found), found.subject)

    async def _approver(
        self, store: str, requester: audit_pb2.AuditActor, request: erasure_pb2.ErasePersonRequest
    ) -> audit_pb2.AuditActor | None:
        if self._approvals is None:
            return None
        name = interceptor.name_of(f"{SERVICE}/ErasePerson", requester, store, request)
        found = await self._approvals.find(name)
        return found.approver if found is not None and found.state == USED else None

    async def _get(self, name: str) -> erasure_pb2.PersonErasure:
        kept = await self._erasures.get(name)
        if kept is None:
            raise NotFound(name)
        return _shown(kept.erasure)


def _digest(name: str, request: erasure_pb2.ErasePersonRequest) -> str:
    """Whom an erasure is of: told from others, and of no use for anything else, as the erasure's name is in it."""
    return hashlib.sha256(name.encode() + b"\0" + request.person.SerializeToString(deterministic=True)).hexdigest()


def _plan(request: erasure_pb2.ErasePersonRequest, found: Finding) -> erasure_pb2.PersonErasure:
    return erasure_pb2.PersonErasure(
        state=erasure_pb2.ERASURE_STATE_PLAN,
        plan=found.token(request.parent, request.person),
        poi=request.person.poi,
        appearances=found.subject.appearances,
        traces=found.traces,
        remainders=found.remainders,
    )


def _shown(erasure: erasure_pb2.PersonErasure) -> erasure_pb2.PersonErasure:
    shown = erasure_pb2.PersonErasure()
    shown.CopyFrom(erasure)
    del shown.appearances[_SHOWN:]
    if erasure.state != erasure_pb2.ERASURE_STATE_PLAN:
        del shown.appearances[:]
    return shown
