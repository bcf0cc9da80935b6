"""The client that looks for people through the gRPC contract, one search after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from poi.v1 import common_pb2, history_pb2, history_pb2_grpc

from bench.history.segments import STORE
from history_svc.records import Vectors, appearance_numbers
from mesh import embeddings
from mesh.channels import connect
from mesh.embeddings import FACE_MODEL

THRESHOLD = 0.5
_PAGE = 1000


class Client:
    """Use it in the loop that it was made in, and close it."""

    def __init__(self, target: str) -> None:
        self._channel = connect(target, max_message_bytes=64 << 20)
        self._stub = history_pb2_grpc.HistoryServiceStub(self._channel)

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    async def search(
        self, query: Vectors, threshold: float = THRESHOLD, interval: common_pb2.Interval | None = None
    ) -> list[str]:
        """The names of the appearances that were found, on all pages."""
        request = history_pb2.SearchAppearancesRequest(
            parent=f"stores/{STORE}",
            embedding=embeddings.encode(query, model=FACE_MODEL, alignment=common_pb2.ALIGNMENT_ALIGNED),
            min_similarity=threshold,
            page_size=_PAGE,
            interval=interval,
        )
        found: list[str] = []
        while True:
            response = await self._stub.SearchAppearances(request, timeout=60)
            found += [hit.appearance.name for hit in response.hits]
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    async def recall(self, queries: Vectors, truth: list[set[int]], threshold: float) -> float:
        """The share of the true appearances that searches find; 1 where there is none to find."""
        wanted = hits = 0
        for query, true in zip(queries, truth, strict=True):
            names = await self.search(query, threshold)
            ids = b"".join(bytes.fromhex(name.rpartition("/")[2]) for name in names)
            found = set(appearance_numbers(np.frombuffer(ids, "V16")).tolist())
            wanted, hits = wanted + len(true), hits + len(true & found)
        return hits / wanted if wanted else 1.0


async def latencies(count: int, call: Callable[[int], Awaitable[Any]]) -> list[float]:
    """ms of so many calls, one after the other, ascending."""
    return sorted([await _timed(call(at)) for at in range(count)])


async def latencies_while(other: asyncio.Task[Any], call: Callable[[int], Awaitable[Any]]) -> list[float]:
    """ms of calls, one after the other until `other` is done, ascending."""
    taken: list[float] = []
    while not other.done():
        taken.append(await _timed(call(len(taken))))
    return sorted(taken)


async def _timed(call: Awaitable[Any]) -> float:
    started = time.perf_counter()
    await call
    return (time.perf_counter() - started) * 1000
