from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.vault import Vault, masters
from mesh.vault.__main__ import main

STORE = "s1"


class Keys:
    """A keyring and a master key, as `python -m mesh.vault` makes them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.keyring, self.master_file = directory / "keyring.json", directory / "master"
        self.master = f"file:{self.master_file}"
        self.run("init", "--store", STORE)

    def run(self, *arguments: str, status: int = 0, master: str = "") -> None:
        """A command on this keyring."""
        assert main(["--keyring", str(self.keyring), "--master", master or self.master, *arguments]) == status

    def vault(self, **options: bool) -> Vault:
        """What a service opens."""
        return Vault(self.keyring, masters.load(self.master), **options)

    @property
    def environment(self) -> dict[str, str]:
        """Of a service that seals."""
        return {"POI_VAULT_KEYRING": str(self.keyring), "POI_VAULT_MASTER": self.master}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Keys of the store s1."""
    return Keys(tmp_path / "keys")


@pytest.fixture
def make_keys(tmp_path: Path) -> Callable[[str], Keys]:
    """Further ones, each with a master key of its own."""
    return lambda name: Keys(tmp_path / name)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vault looks at its keyring at every use."""
    monkeypatch.setattr("mesh.vault.vault._LOOK_SECONDS", 0.0)
