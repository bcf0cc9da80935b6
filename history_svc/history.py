"""What the service needs of a history: the interface that every store of it has.

`store.History` keeps it in files of its own; `qdrant.store.QdrantHistory` keeps nothing of its own, so that any number
of processes serve one history.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from poi.v1 import history_pb2

from history_svc.appearances import Appearance
from history_svc.erasure import Receipt
from history_svc.frames import FrameStore
from history_svc.index import HistoryIndex
from history_svc.intake import Batch
from history_svc.records import FrameLink
from mesh.errors import MeshError


@dataclass(frozen=True, slots=True)
class Appending:
    """A batch on its way to where it is safe. Await both; each raises MeshError when it did not get there."""

    detections: Awaitable[list[bytes]] | None
    """The appearance of each observation."""
    frames: Awaitable[list[MeshError | None]] | None
    """Why each upload was refused, None where it is durable."""


class HistoryReads(Protocol):
    """Reads of appearances and frames. Of the loop's thread.

    Each MUST give what was acknowledged before it was asked, whoever took it. It MAY give what is older than is kept
    until that is removed. Raises MeshError when the store does not answer.
    """

    async def appearance(self, appearance_id: bytes) -> Appearance | None:
        """The appearance with this id."""

    async def appearances(self, ids: Iterable[bytes]) -> dict[bytes, Appearance]:
        """Those of the appearances with these ids that there are."""

    async def numbered(self, numbers: Iterable[int]) -> dict[int, Appearance]:
        """Those of the appearances with these numbers (records.appearance_number) that there are."""

    async def newest_first(
        self,
        start_ns: int | None,
        end_ns: int | None,
        after: tuple[int, bytes] | None,
        limit: int,
        cameras: Collection[str] | None = None,
    ) -> list[Appearance]:
        """Those that overlap [start_ns, end_ns) on one of `cameras`, by (start, id) falling, after the key `after`.

        `limit` at most; fewer only when there are no more.
        """

    async def frame(self, frame_id: str) -> FrameLink | None:
        """The frame with this id, and what it shows."""


class HistoryErasing(Protocol):
    """Removes appearances, their detections, faces and frames, for good."""

    async def plan(self, appearances: Collection[bytes]) -> Receipt:
        """What `erase` would remove; it names no erasure. Raises NotFound."""

    async def erase(
        self, appearances: Collection[bytes], request_id: str, frames: Collection[str] = (), content: str = ""
    ) -> Receipt:
        """Removes these and says what that was, once it is done and was found to be.

        Beside the frames of the appearances, those with the ids `frames` go, whatever they show.

        None of it is found from when this returns on, whoever is asked, and none of its detections comes back when it
        is sent again. A request that was made before is only waited for. What a crash cut off MUST be finished by
        itself. Raises NotFound for an appearance that is not there, InvalidArgument for a request id of a request with
        another `content` (a digest; "" for one that is in the id), and MeshError when it is not done.
        """

    async def receipt(self, erasure_id: str) -> Receipt | None:
        """The receipt of an erasure, done or not."""

    async def unfinished(self, prefix: str) -> list[str]:
        """Request ids with this prefix of erasures that have begun and are not done."""


class HistoryStore(Protocol):
    """The history of one store (a shop, `stores/{store}`).

    What `append` says is done MUST be there after any crash of any process, and MUST be seen by every read that begins
    later. A detection or frame that is there already MUST be answered as it was, and counted once, also when its first
    append was cut off in the middle. Of the loop's thread.
    """

    @property
    def store(self) -> str:
        """Its id."""

    @property
    def reads(self) -> HistoryReads:
        """Reads by id and time."""

    @property
    def index(self) -> HistoryIndex:
        """Searches by face."""

    @property
    def frames(self) -> FrameStore:
        """The images of evidence frames."""

    @property
    def erasing(self) -> HistoryErasing:
        """Erasures."""

    def oldest_ns(self) -> int:
        """What is older is neither taken nor found."""

    def read(self, request: history_pb2.AppendDetectionsRequest) -> Batch:
        """Sorts a request into what can be appended and what is refused."""

    def append(self, batch: Batch) -> Appending:
        """Puts a batch behind those before it. Waits for nothing."""

    def work(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What is to run in the background as long as it serves, by name; without "write" no batch is taken."""

    def watch(self, told: Callable[[bool], object]) -> None:
        """Tells whether all that it keeps is sound, now and whenever that changes; from any thread."""

    async def close(self) -> None:
        """Ends what is under way. Nobody waits for an answer any more."""
