"""Checks every request, and every message of a client's stream, against the constraints in its contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message
from protovalidate import FieldPathPb, Validator

from mesh.errors import InvalidArgument
from mesh.interceptors.base import Behaviour, Interceptor, Rpc
from mesh.interceptors.sizes import Sizes
from mesh.interceptors.times import Times


class ValidationInterceptor(Interceptor):
    """Raises InvalidArgument that names each wrong field. A type without constraints costs a set look-up."""

    def __init__(self) -> None:
        self._validator = Validator()
        self._sizes, self._times = Sizes(), Times()
        self._constrained: dict[type[Any], bool] = {}

    def wrap(self, rpc: Rpc, behaviour: Behaviour) -> Behaviour:
        """Check before the handler sees it."""
        if rpc.request_streaming:

            async def run_stream(requests: Any, context: Any) -> Any:
                return await behaviour(self._checked(requests), _CheckedReads(context, self))

            return run_stream

        async def run(request: Any, context: Any) -> Any:
            self.check(request)
            return await behaviour(request, context)

        return run

    def check(self, message: Any) -> None:
        """Raises InvalidArgument with a violation per wrong field."""
        kind = type(message)
        constrained = self._constrained.get(kind)
        if constrained is None:
            constrained = isinstance(message, Message) and has_constraints(message.DESCRIPTOR)
            self._constrained[kind] = constrained
        if not constrained:
            return
        wrong = list(self._sizes.wrong(message))
        if not wrong:
            problems = [violation.proto for violation in self._validator.collect_violations(message)]
            wrong = [(field_path(problem.field), problem.message or problem.rule_id) for problem in problems]
            wrong += self._times.wrong(message)
        if wrong:
            raise InvalidArgument(violations=wrong)

    async def _checked(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        check = self.check
        async for request in requests:
            check(request)
            yield request


class _CheckedReads:
    """The context of a handler that reads its stream with `await context.read()`."""

    def __init__(self, context: Any, validation: ValidationInterceptor) -> None:
        self._context, self._validation = context, validation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        message = await self._context.read()
        self._validation.check(message)
        return message


def has_constraints(message: Any) -> bool:
    """Whether protovalidate has anything to check in messages of this Descriptor, at any depth."""
    seen: set[str] = set()
    pending = [message]
    while pending:
        current = pending.pop()
        if current.full_name in seen:
            continue
        seen.add(current.full_name)
        for item in (current, *current.fields, *current.oneofs):
            if any(option.full_name.startswith("buf.validate.") for option, _ in item.GetOptions().ListFields()):
                return True
        pending += [field.message_type for field in current.fields if field.message_type]
    return False


def field_path(path: FieldPathPb | None) -> str:
    """`detections[3].embedding.model` of a violation's path; "" when the message as a whole is wrong."""
    text = ""
    for element in path.elements if path is not None else ():
        text += f".{element.field_name}" if text else element.field_name
        if element.subscript is not None:
            key = element.subscript.value
            text += f'["{key}"]' if isinstance(key, str) else f"[{key}]"
    return text
