from tests.vault.conftest import keys

__all__ = ["keys"]
