"""What is where in Redis. The braces keep all of a store's keys in one slot of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

STORES = "poi:region:stores"
"""Set of the stores that have scenes."""

LASTING_MS = 3_600_000
"""Visits longer than this are found through `Keys.lasting`."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one store."""

    store: str

    @property
    def _base(self) -> str:
        return f"poi:{{{self.store}}}:region"

    @property
    def visits(self) -> str:
        """Hash: visit id -> visit."""
        return f"{self._base}:visits"

    @property
    def index(self) -> str:
        """Sorted set: all visit ids by entry."""
        return f"{self._base}:index"

    @property
    def lasting(self) -> str:
        """Sorted set: ids of visits that go on or took over `LASTING_MS`, by entry.

        Only these can overlap an interval from further back than `LASTING_MS` before it, so that nobody has to look
        through a week of visits for those of the last ten minutes.
        """
        return f"{self._base}:lasting"

    @property
    def closed(self) -> str:
        """Sorted set: ids of closed visits by the wall clock's time of closing, for retention."""
        return f"{self._base}:closed"

    @property
    def events(self) -> str:
        """Stream: `event`, `id`, `visit`."""
        return f"{self._base}:events"

    @property
    def scenes(self) -> str:
        """Sorted set: scenes by the wall clock's time of their last update; infinite once they fell silent."""
        return f"{self._base}:scenes"

    def scene(self, scene: str) -> str:
        """Hash: `version`, `time`, `latest`, `lagging`, `v:<id>` of tracked visits, `z:<zone>` of known zones."""
        return f"{self._base}:scene:{scene}"

    def ends(self, scene: str) -> str:
        """Hash: [object id, zone] -> last exit."""
        return f"{self._base}:ends:{scene}"
