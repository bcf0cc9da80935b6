"""Tokens of local accounts, for a store without an identity provider: `python -m mesh.token`.

A directory holds the keys that sign (`{id}.pem`, for their owner alone) and `jwks.json`, their public halves, which is
the only thing that servers need (POI_JWKS). Who has the directory can be anybody: it belongs on the machine of whoever
gives out tokens, and servers get a copy of `jwks.json`.
"""

from mesh.token.accounts import Accounts, AccountsError

__all__ = ["Accounts", "AccountsError"]
