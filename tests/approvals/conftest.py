from tests.approvals.support import eyes
from tests.vault.conftest import keys

__all__ = ["eyes", "keys"]
