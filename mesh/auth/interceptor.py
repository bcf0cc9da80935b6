"""Asks, for every call of a server, who makes it and whether the policy lets them; tells the handler who it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from prometheus_client import Counter

from mesh.auth.authenticator import Authenticator
from mesh.auth.policy import POLICY, Rule
from mesh.auth.principal import Principal, _current
from mesh.auth.requests import Requests
from mesh.auth.tokens import LEEWAY_SECONDS
from mesh.errors import MeshError, PermissionDenied, Unauthenticated
from mesh.interceptors.base import Behaviour, Interceptor, Rpc, status_name

_log = structlog.get_logger(__name__)
_REFUSED: Final = Counter(
    "poi_auth_refused_total", "Calls that were refused.", ("grpc_service", "grpc_method", "reason")
)
_PURPOSE: Final = "purpose"
_MAX_PURPOSE: Final = 1000


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be recorded of a call: of every one that was refused, and of those whose row is `audited`."""

    principal: Principal | None
    """None where it could not be found out."""
    method: str
    """poi.v1.AlertService/GetAlert"""
    resource: str
    """The name that the request's row points at (of a stream, its first message's); "" where unknown."""
    result: str
    """The name of the status it ended with: OK, PERMISSION_DENIED, NOT_FOUND, ..."""
    reason: str
    """Why it was refused; "" where it was not."""
    purpose: str
    peer: str


Audit = Callable[[Decision], Awaitable[None]]
"""Records a decision. What it raises is what the caller is told."""


class AuthInterceptor(Interceptor):
    """Lets a call through to its handler, or raises Unauthenticated, PermissionDenied or NotFound."""

    def __init__(
        self,
        authenticator: Authenticator,
        policy: Mapping[str, Rule] = POLICY,
        *,
        purpose: bool = False,
        audit: Audit | None = None,
    ) -> None:
        """`purpose`: whether the rows that need one insist on it. `audit` is told what there is to record."""
        self._authenticator = authenticator
        self._methods = {method: (rule, Requests(rule)) for method, rule in policy.items()}
        self._purpose, self._audit = purpose, audit

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Check the caller, then each message."""
        method = f"{rpc.service}/{rpc.method}"
        row = self._methods.get(method)
        streams = rpc.request_streaming or rpc.response_streaming

        async def run(request: Any, context: Any) -> Any:
            call = _Call(context)
            error: BaseException | None = None
            try:
                with call.deciding():
                    principal = call.principal = await self._authenticator.principal(context)
                    if row is None:
                        raise PermissionDenied("nobody may call this", reason="NO_POLICY")
                    rule, requests = row
                    self._permit(principal, rule, call)
                passed, reading = request, context
                if requests.needed(principal):
                    call.look = requests
                    call.vet = requests.vetting(principal)
                    if rpc.request_streaming:
                        passed, reading = call.checked(request), _CheckedReads(context, call)
                    else:
                        call.check(request)
                token = _current.set(principal)
                try:
                    if streams and principal.expires is not None:
                        return await _until(principal.expires, behaviour(passed, reading))
                    return await behaviour(passed, reading)
                finally:
                    _current.reset(token)
            except BaseException as raised:
                error = raised
                raise
            finally:
                if call.refused is not None:
                    _report(rpc, call, call.refused)
                if self._audit is not None and (call.refused is not None or (row is not None and row[0].audited)):
                    await self._audit(call.decision(method, error))

        return run

    def _permit(self, principal: Principal, rule: Rule, call: _Call) -> None:
        if rule.anyone:
            return
        if principal.service not in rule.services and not principal.roles & rule.roles:
            raise PermissionDenied("you may not do this", reason="ROLE_MISSING" if principal.roles else "NO_ROLE")
        if rule.purpose and self._purpose and principal.kind != "service" and not call.purpose:
            raise PermissionDenied("say what it is for, in the metadata `purpose`", reason="PURPOSE_REQUIRED")


class _Call:
    """What is known of a call."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.principal: Principal | None = None
        self.refused: MeshError | None = None
        self.look: Requests | None = None
        self.vet: Callable[[Any], None]
        self._resource = ""
        said = next((value for key, value in context.invocation_metadata() or () if key == _PURPOSE), "")
        self.purpose = str(said).strip()[:_MAX_PURPOSE]

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """What is raised in here is a refusal."""
        try:
            yield
        except MeshError as error:
            self.refused = error
            raise

    def check(self, message: Any) -> None:
        """Raises what the policy says against a message."""
        if not self._resource and self.look is not None:
            self._resource = self.look.name(message)
        with self.deciding():
            self.vet(message)

    async def checked(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages, each of them checked."""
        vet, first = self.vet, True
        try:
            async for message in requests:
                if first:  # the rest goes without what a single message can afford
                    self.check(message)
                    first = False
                else:
                    vet(message)
                yield message
        except MeshError as error:
            self.refused = error
            raise

    def decision(self, method: str, error: BaseException | None) -> Decision:
        """What to record of it, when it has ended with `error`."""
        result = error.code.name if isinstance(error, MeshError) else status_name(self._context, error)
        return Decision(
            self.principal,
            method,
            self._resource,
            result,
            self.refused.reason if self.refused is not None else "",
            self.purpose,
            self._context.peer(),
        )


class _CheckedReads:
    """The context of a handler that reads its stream with `await context.read()`."""

    def __init__(self, context: Any, call: _Call) -> None:
        self._context, self._call = context, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._call.check(message)
        return message


async def _until(expires: float, work: Awaitable[Any]) -> Any:
    """A stream ends with the token that opened it: whoever lost their role must not go on listening for days."""
    try:
        async with asyncio.timeout(max(0.0, expires + LEEWAY_SECONDS - time.time())) as limit:
            return await work
    except TimeoutError:
        if limit.expired():
            raise Unauthenticated("the token has expired", reason="TOKEN_EXPIRED") from None
        raise


def _report(rpc: Rpc, call: _Call, error: MeshError) -> None:
    _REFUSED.labels(rpc.service, rpc.method, error.reason).inc()
    who = call.principal
    # A subject may be a person's name: the token's id leads to it.
    caller = "" if who is None else who.name if not who.token_id else f"token {who.token_id}"
    _log.warning("refused", rpc_service=rpc.service, rpc_method=rpc.method, reason=error.reason, caller=caller)
