"""Who calls, and whether they may: mutual TLS for services, tokens (JWT) for people and clients, one policy table.

`mesh.principal` is who calls: `Principal`, `Role`, and `current()` for whoever handles a call.

policy.py       THE table: who may call which method, where its request says the store and who acts
requests.py     reads and fills those fields
keys.py         the public keys of issuers: a file, an address, an OIDC provider
tokens.py       a token -> a Principal
authenticator.py  a call -> a Principal
interceptor.py  asks the above for every call of a server, and refuses
ending.py       what a token opened ends with it
refusals.py     what is kept of what was refused
door.py         the same for who comes in by something else than gRPC
"""

from mesh.auth.authenticator import Authenticator, tokens_of
from mesh.auth.door import Door
from mesh.auth.interceptor import AuthInterceptor
from mesh.auth.policy import POLICY, Rule
from mesh.auth.refusals import Refusal, Refusals
from mesh.principal import ALL, Principal, Role, current

__all__ = [
    "ALL",
    "POLICY",
    "AuthInterceptor",
    "Authenticator",
    "Door",
    "Principal",
    "Refusal",
    "Refusals",
    "Role",
    "Rule",
    "current",
    "tokens_of",
]
