"""Every request of a service, mutated: the answer is a result, or an error that the contract knows."""

from __future__ import annotations

import math
import random
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
import uvloop
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, status_pb2
from protovalidate import Validator

from mesh import names
from mesh.interceptors.validation import field_path
from tests.fuzz.inprocess import Answer, InProcess, Method
from tests.fuzz.logs import WatchedLog
from tests.fuzz.message_mutator import MessageMutator, pack, unpack
from tests.fuzz.target import Finding, Target

_OURS = frozenset({code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.UNIMPLEMENTED})
"""What no item of an answer may be refused with."""


_LAWFUL = 0.8
"""How many of the requests that are sent are such as the contract allows."""
_BATCH = 256
"""Items of a message on a stream."""

Seeds = Mapping[str, Iterable[Message]]
"""By the method's name: requests one by one or, to a method that takes a stream, also all on one."""


class Requests:
    """Sends requests of seeds and mutations to a service in this process."""

    def __init__(
        self,
        module: str,
        env: Callable[[], Awaitable[Mapping[str, str]]],
        *,
        seeds: Seeds,
        texts: Iterable[str],
        contents: Iterable[bytes] = (),
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`texts` and `contents`: strings and bytes that are worth a try. `metadata`: of every call."""
        contents = list(contents)
        self._log = sys.stderr = WatchedLog(contents)
        self._service = InProcess(module, env, uvloop.new_event_loop(), metadata)
        self._methods = self._service.methods
        self._mutator = MessageMutator(texts, contents)
        known = {method.path.rpartition("/")[2]: place for place, method in enumerate(self._methods)}
        if unknown := seeds.keys() - known.keys():
            raise ValueError(f"no such method: {unknown}; there are {sorted(known)}")
        self._validator = Validator()
        self._lawful: dict[type[Message], list[Message]] = {method.request: [] for method in self._methods}
        self._seeds = [pack(place, []) for place in range(len(self._methods))]
        for name, messages in seeds.items():
            self._lawful[self._methods[known[name]].request] += (messages := list(messages))
            for message in messages:
                self._mutator.learn(message)
            all_of_them = [message.SerializeToString() for message in messages]
            if self._methods[known[name]].takes_stream:
                self._seeds.append(pack(known[name], all_of_them))
            self._seeds += [pack(known[name], [one]) for one in all_of_them]

    def target(self) -> Target:
        """For the worker."""
        for seed in self._seeds:  # in their order, so that what later ones are about is there
            self._test(seed)
        return Target(self._test, self._seeds, self._mutate, remembers=True)

    def _test(self, data: bytes) -> None:
        method, messages = self._read(data)
        answer = self._service.call(method, messages)
        self._log.check()
        if method.takes_stream and method.gives_stream:
            _check_stream(method, messages, answer)
        for response in answer.responses:
            response.SerializeToString()
            check(response)
            self._mutator.hear(response)
        if answer.code is grpc.StatusCode.OK and not method.gives_stream and len(answer.responses) != 1:
            raise Finding(f"{method.path} has no answer")

    def _read(self, data: bytes) -> tuple[Method, list[Message]]:
        number, parts = unpack(data)
        method = self._methods[number % len(self._methods)]
        messages = []
        for part in parts if method.takes_stream else parts[:1]:
            try:
                messages.append(method.request.FromString(part))
            except DecodeError:
                continue  # gRPC's, not ours, to answer
        return method, messages or [method.request()]

    def _mutate(self, data: bytes, largest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.1:
            data = rng.choice(self._seeds)
        method, messages = self._read(data)
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            self._mutator.mutate(rng.choice(messages), rng)
        if rng.random() < _LAWFUL:
            for message in messages:
                self._repair(message, rng.choice(self._lawful[method.request] or [method.request()]))
        if method.takes_stream and rng.random() < 0.2:
            messages.append(messages[rng.randrange(len(messages))])
        mutated = pack(self._methods.index(method), [message.SerializeToString() for message in messages])
        return mutated if len(mutated) <= largest else data

    def _repair(self, message: Message, lawful: Message) -> None:
        """Takes the fields that the contract refuses from a request that it does not: most chances end there."""
        for violation in self._validator.collect_violations(message):
            path = field_path(violation.proto.field)
            field = re.split(r"[.\[]", path)[0]
            oneof = message.DESCRIPTOR.oneofs_by_name.get(field)
            if oneof is not None:
                field = lawful.WhichOneof(field) or ""
            descriptor = message.DESCRIPTOR.fields_by_name.get(field)
            if descriptor is None:
                continue
            message.ClearField(field)
            part = type(lawful)()
            part.CopyFrom(lawful)
            for other, _ in lawful.ListFields():
                if other.name != field:
                    part.ClearField(other.name)
            message.MergeFrom(part)


def _check_stream(method: Method, messages: Sequence[Message], answer: Answer) -> None:
    """One answer a message in their order, whatever is wrong with an item of it: that is in every contract."""
    if answer.code is grpc.StatusCode.OK:
        if len(answer.responses) != len(messages):
            raise Finding(f"{method.path} answers {len(answer.responses)} of {len(messages)} messages")
    elif not any(_is_no_batch(message) for message in messages[: len(answer.responses) + 1]):
        raise Finding(f"{method.path} ends its stream with {answer.code.name} after {len(answer.responses)} messages")


def _is_no_batch(message: Any) -> bool:
    """Whether it has more items than a batch may have, or is not of a store."""
    if any(descriptor.is_repeated and len(value) > _BATCH for descriptor, value in message.ListFields()):
        return True
    store, _, store_id = message.parent.partition("/") if hasattr(message, "parent") else ("stores", "", "x")
    return store != "stores" or not names.is_id(store_id)


def check(message: Message) -> None:
    """Raises Finding for an answer with a number that is none, or with an item refused for a fault of ours."""
    if isinstance(message, status_pb2.Status) and message.code in _OURS:
        raise Finding(f"an item is refused with {message}")
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            continue
        for one in value if descriptor.is_repeated else (value,):
            if isinstance(one, Message):
                check(one)
            elif isinstance(one, float) and not math.isfinite(one):
                raise Finding(f"{descriptor.full_name} is {one}")


async def nobody() -> str:
    """The address of a server that knows nothing: every method of every service answers NOT_FOUND."""
    server = grpc.aio.server(handlers=[_Nobody()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _running.append(server)
    return f"127.0.0.1:{port}"


class _Nobody(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def refuse(_: object, context: Any) -> None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nobody knows")

        return grpc.stream_stream_rpc_method_handler(refuse)  # the same on the wire for each kind


_running: list[Any] = []
"""Servers live as long as somebody holds them."""


async def nothing(**env: str) -> Mapping[str, str]:
    """An environment of a service that needs no neighbour of its own: all of them know nothing."""
    target = await nobody()
    neighbours = {f"POI_{name}_TARGET": target for name in ("EMBED", "MATCH", "HISTORY", "REGION", "ALERT")}
    return {
        "POI_LOG_LEVEL": "debug",  # all of it is read: `tests.fuzz.logs`
        "POI_LOG_FORMAT": "json",
        "POI_METRICS_LISTEN": "",
        "POI_HEARTBEAT_SECONDS": "1",
        **neighbours,
        **env,
    }
