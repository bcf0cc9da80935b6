from __future__ import annotations

from pathlib import Path

import pytest

from mesh.pki import Authority


@pytest.fixture
def pki(tmp_path: Path) -> Authority:
    """An authority with its root."""
    authority = Authority(tmp_path / "pki")
    authority.create("poi-mesh")
    return authority
