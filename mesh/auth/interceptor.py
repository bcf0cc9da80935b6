"""Asks, for every call of a server, who makes it and whether the policy lets them; tells the handler who it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import grpc
import structlog
from prometheus_client import Counter

from mesh.auth.authenticator import Authenticator
from mesh.auth.ending import while_good
from mesh.auth.policy import POLICY, Rule
from mesh.auth.refusals import Refusal, Told
from mesh.auth.requests import Requests
from mesh.errors import MeshError, PermissionDenied
from mesh.interceptors.base import Behaviour, Interceptor, Rpc
from mesh.peers import address_of, peer_of
from mesh.principal import CURRENT, Principal, current

_log = structlog.get_logger(__name__)
_REFUSED: Final = Counter(
    "poi_auth_refused_total", "Calls that were refused.", ("grpc_service", "grpc_method", "reason")
)


class AuthInterceptor(Interceptor):
    """Lets a call through to its handler, or raises Unauthenticated, PermissionDenied or NotFound."""

    def __init__(
        self,
        authenticator: Authenticator,
        policy: Mapping[str, Rule] = POLICY,
        *,
        on_refusal: Told | None = None,
    ) -> None:
        """`on_refusal` keeps a record of what was refused."""
        self._authenticator, self._on_refusal = authenticator, on_refusal
        self._methods = {method: (rule, Requests(rule)) for method, rule in policy.items()}

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Check the caller, then each message."""
        method = f"{rpc.service}/{rpc.method}"
        row = self._methods.get(method)
        streams = rpc.request_streaming or rpc.response_streaming

        async def run(request: Any, context: Any) -> Any:
            # Whose share the call is of was asked first, and the answer is this one; alone, it asks itself.
            principal = current() or await self.identify(rpc, context)
            call = _Call(principal)
            try:
                with call.deciding():
                    if row is None:
                        raise PermissionDenied("nobody may call this", reason="NO_POLICY")
                    rule, requests = row
                    if not rpc.request_streaming:
                        call.resource = requests.name(request)
                    permit(principal, rule)
                passed, reading = request, context
                if requests.needed(principal):
                    call.look, call.vet = requests, requests.vetting(principal)
                    if rpc.request_streaming:
                        passed, reading = call.checked(request), _CheckedReads(context, call)
                    else:
                        call.check(request)
                token = CURRENT.set(principal)
                try:
                    if streams:
                        return await while_good(principal, behaviour(passed, reading))
                    return await behaviour(passed, reading)
                finally:
                    CURRENT.reset(token)
            finally:
                if call.refused is not None:
                    await self._refused(rpc, context, call.refused, principal, call.resource)

        return run

    async def identify(self, rpc: Rpc, context: Any) -> Principal:
        """Who makes the call of this context. Raises Unauthenticated."""
        try:
            return await self._authenticator.principal(context)
        except MeshError as error:
            await self._refused(rpc, context, error)
            raise

    async def _refused(
        self, rpc: Rpc, context: Any, error: MeshError, principal: Principal | None = None, resource: str = ""
    ) -> None:
        code, reason, method = error.code.name, error.reason, f"{rpc.service}/{rpc.method}"
        refusal = Refusal(principal, method, resource, code, reason, peer_of(context), address_of(context))
        _report(rpc, refusal)
        if self._on_refusal is not None:
            await self._on_refusal(refusal)


def permit(principal: Principal, rule: Rule) -> None:
    """Raises PermissionDenied for who has no place in the row."""
    if not rule.anyone and principal.service not in rule.services and not principal.roles & rule.roles:
        raise PermissionDenied("you may not do this", reason="ROLE_MISSING" if principal.roles else "NO_ROLE")


class _Call:
    """What is known of a call."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.refused: MeshError | None = None
        self.resource = ""
        self.look: Requests
        self.vet: Callable[[Any], None]

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
        with self.deciding():
            self.vet(message)

    async def checked(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages, each of them checked."""
        vet = self.vet
        try:
            async for message in requests:  # the less in here the better: it is done for every message
                self.resource = self.resource or self.look.name(message)
                vet(message)
                yield message
        except MeshError as error:
            self.refused = error
            raise


class _CheckedReads:
    """The context of a handler that reads its stream with `await context.read()`."""

    def __init__(self, context: Any, call: _Call) -> None:
        self._context, self._call = context, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        message, call = await self._context.read(), self._call
        if message is not grpc.aio.EOF:
            call.resource = call.resource or call.look.name(message)
            call.check(message)
        return message


def _report(rpc: Rpc, refusal: Refusal) -> None:
    reason, who = refusal.reason, refusal.principal
    _REFUSED.labels(rpc.service, rpc.method, reason).inc()
    # A subject may be a person's name: the token's id leads to it.
    caller = "" if who is None else who.name if who.name.startswith("spiffe://") else f"token {who.token_id}"
    _log.warning("refused", rpc_service=rpc.service, rpc_method=rpc.method, reason=reason, caller=caller)
