"""Encryption at rest: what is stored of people is sealed with a key of its store, and that key with a master key.

    master key (a file, an environment variable, a KMS)        `masters`
      wraps the data keys of each store, in the keyring file   `keyring`
        which seal content (AES-256-GCM) and pages (AES-CTR)   `vault`, `pages`

A sealed value names the data key that it was sealed with, so that keys can be exchanged without touching what is
stored: `python -m mesh.vault rotate`. With its keys destroyed (`erase-store`) nothing of a store can be read any more,
wherever copies of it are. A service reads what was stored in the clear before as well, and seals what it writes;
what lies in Redis, with a key of before or in the clear, is sealed anew beside the work (`resealing`), and history's
files are rewritten by retention within days.
"""

from mesh.vault.masters import MasterKey, VaultUnusable
from mesh.vault.vault import PLAIN, Box, NoVault, Unopenable, Vault

__all__ = ["PLAIN", "Box", "MasterKey", "NoVault", "Unopenable", "Vault", "VaultUnusable"]
