"""A certificate authority for development and for stores without one: `python -m mesh.pki`.

In one directory: `ca/` with the root (its key is the one secret that makes identities), and a directory for each
identity with `tls.crt`, `tls.key` and `ca.crt`, called as cert-manager calls them in Kubernetes. Servers and clients
read those again when they change, so `renew` and a change of root need no restart.

A root is replaced in three steps, each done when all have the one before: `roll` (a new root; everybody trusts both),
`renew` (certificates of the new one), `retire` (nobody trusts the old one any more).
"""

from mesh.pki.authority import Authority, PkiError

__all__ = ["Authority", "PkiError"]
