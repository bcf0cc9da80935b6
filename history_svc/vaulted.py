"""The seam (`seam`) over a vault: all that is stored of people is sealed with the key of the store.

What was stored before there was a vault is read as it is, if the vault accepts that, and sealed when its segment is
merged or made anew. Records and indices are authenticated; pages, which are read row by row, are hidden only, and have
the checksums of their manifest. Tables that are read as a whole are opened into memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from history_svc.seam import PLAIN, Mapped, Seam, Table
from history_svc.settings import Settings
from mesh.vault import Unopenable, Vault, pages
from mesh.vault.settings import vault_of

_CONTEXT: Final = b"history"


def seam_of(settings: Settings) -> Seam:
    """The seam that the settings ask for. Ends the process with one line when its keys cannot be used."""
    vault = vault_of(settings, settings.store)
    return VaultSeam(vault, settings.store, accept_plain=settings.vault_accept_plain) if vault else PLAIN


class VaultSeam(Seam):
    """See the module. Sealing raises mesh.vault.VaultUnusable once the store's keys are gone."""

    def __init__(self, vault: Vault, store: str, *, accept_plain: bool) -> None:
        """`accept_plain`: as of the vault."""
        self._vault, self._store, self._accept_plain = vault, store, accept_plain

    def seal(self, content: bytes) -> bytes:
        """See Seam."""
        return self._vault.seal(self._store, content, _CONTEXT)

    def open(self, content: bytes) -> bytes:
        """See Seam."""
        return self._vault.open(self._store, content, _CONTEXT)

    def seal_pages(self, content: bytes | memoryview) -> bytes | memoryview:
        """See Seam. A file without content has none to hide."""
        return pages.seal(self._vault, self._store, content) if len(content) else content

    def map(self, path: Path) -> Mapped:
        """See Seam. Raises ValueError for a file that cannot be opened."""
        plain = Mapped(path)
        opened = pages.pages_of(self._vault, self._store, bytes(plain.view()[-pages.TRAILER_BYTES :]))
        if opened is not None:
            return _SealedMap(path, opened)
        if len(plain.view()) and not self._accept_plain:
            raise Unopenable(f"{path.name} is not sealed")
        return plain


class _SealedMap(Mapped):
    def __init__(self, path: Path, opened: pages.Pages) -> None:
        super().__init__(path)
        self._pages = opened

    def view(self) -> memoryview:
        return memoryview(self._pages.whole(self._stored()))

    def table(self, dtype: str, width: int) -> Table:
        rows: NDArray[Any] = np.frombuffer(self._stored(), dtype).reshape(-1, width)
        if rows.dtype.itemsize * width % pages.BLOCK_BYTES:
            whole: NDArray[Any] = np.frombuffer(self.view(), dtype).reshape(-1, width)
            return whole
        return _SealedTable(rows, self._pages)

    def _stored(self) -> memoryview:
        return super().view()[: -pages.TRAILER_BYTES]


class _SealedTable:
    """Opens the rows that are asked for."""

    def __init__(self, rows: NDArray[Any], opened: pages.Pages) -> None:
        self._rows, self._pages = rows, opened

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: NDArray[np.intp] | slice) -> NDArray[Any]:
        places = np.arange(len(self._rows))[at] if isinstance(at, slice) else at
        return self._pages.rows(self._rows, places)
