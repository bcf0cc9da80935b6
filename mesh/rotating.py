"""A gRPC channel whose certificate changes: Python's gRPC reads a client's certificate once, when a channel is made.

So a new channel is made when the files change. Calls that run finish on the old one, which is closed after the last of
them; every new call goes over the new one, with stubs that were made before too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc

from mesh.tls import Credentials, Identity

_LOOK_SECONDS: Final = 5.0
"""How often the files are looked at: certificates are renewed hours before they end."""
_LOST_SECONDS: Final = 10.0
"""How long an old channel without a connection may look for one with credentials that are no longer the right ones."""


class RotatingChannel(grpc.aio.Channel):
    """The channel that `make` gives for the credentials of the moment. To be made inside the event loop.

    Every call bears `metadata`: a token, say. (gRPC's own call credentials cost 0.2 ms a call in Python: a thread.)
    """

    def __init__(
        self,
        identity: Identity,
        make: Callable[[Credentials], grpc.aio.Channel],
        *,
        metadata: Sequence[tuple[str, str]] = (),
        look_seconds: float = _LOOK_SECONDS,
        lost_seconds: float = _LOST_SECONDS,
    ) -> None:
        self._identity, self._make = identity, make
        self.metadata = tuple(metadata)
        self._look_seconds, self._lost_seconds = look_seconds, lost_seconds
        self.current = _Generation(make(identity.current))
        self._old: set[asyncio.Task[None]] = set()
        self._watch = asyncio.get_running_loop().create_task(self._look(), name="certificates")

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            fresh = await asyncio.to_thread(self._identity.refresh)
            if fresh is not None:
                old, self.current = self.current, _Generation(self._make(fresh))
                task = asyncio.create_task(old.retire(self._lost_seconds), name="old certificate")
                self._old.add(task)
                task.add_done_callback(self._old.discard)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """As of any channel."""
        return _Method(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """As of any channel."""
        return _Method(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """As of any channel."""
        return _Method(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """As of any channel."""
        return _Method(self, "stream_stream", args, kwargs)

    async def close(self, grace: float | None = None) -> None:
        """Close it, and the old ones that still have calls. As of any channel, calls get `grace` seconds to end."""
        tasks = [self._watch, *self._old]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.current.channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the channel of the moment."""
        return self.current.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the channel of the moment."""
        await self.current.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Of the channel of the moment."""
        await self.current.channel.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Generation:
    """A channel and how many calls it has."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._calls = 0
        self._free = asyncio.Event()
        self._free.set()

    def began(self, call: Any) -> None:
        self._calls += 1
        self._free.clear()
        call.add_done_callback(self._ended)

    def _ended(self, _: Any) -> None:
        self._calls -= 1
        if not self._calls:
            self._free.set()

    async def retire(self, lost_seconds: float) -> None:
        """Close the channel after its last call, or once it has been without a connection for `lost_seconds`.

        Calls that wait for a server without a deadline would else go on knocking with a certificate that has ended:
        they end as cancelled, and whoever keeps a stream open for ever opens it again.
        """
        waiting = [asyncio.create_task(self._free.wait()), asyncio.create_task(self._lost(lost_seconds))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await self.channel.close()

    async def _lost(self, seconds: float) -> None:
        """Returns once there has been no connection for so long."""
        while True:
            if self.channel.get_state() is grpc.ChannelConnectivity.READY:
                await self.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            try:
                async with asyncio.timeout(seconds):
                    await self.channel.channel_ready()
            except TimeoutError:
                return


class _Method:
    """What a stub calls: the method of whichever channel it is now."""

    def __init__(self, owner: RotatingChannel, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._owner, self._kind, self._args, self._kwargs = owner, kind, args, kwargs
        self._generation: _Generation | None = None
        self._call: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        generation = self._owner.current
        if generation is not self._generation:
            self._call = getattr(generation.channel, self._kind)(*self._args, **self._kwargs)
            self._generation = generation
        if self._owner.metadata:
            kwargs["metadata"] = [*(kwargs.get("metadata") or ()), *self._owner.metadata]
        call = self._call(*args, **kwargs)
        generation.began(call)
        return call
