"""Make up the passwords of one store and print them as Kubernetes Secrets, to be piped into kubectl.

    python3 deploy/credentials.py | kubectl apply --namespace poi-store-1 -f -

Needs Python alone. Running it again makes other passwords: cameras then need the new one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import sys

BROKER_ITERATIONS = 101
"""mosquitto_passwd's own count: passwords are 192 random bits, which no stretching makes harder to guess."""


def broker_entry(user: str, password: str) -> str:
    """A line of mosquitto's password file: PBKDF2 with SHA-512, mosquitto's format 7."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, BROKER_ITERATIONS, dklen=64)
    encoded = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"{user}:$7${BROKER_ITERATIONS}${'$'.join(encoded)}\n"


def secret(name: str, values: dict[str, str]) -> dict[str, object]:
    """A Secret as a Kubernetes object."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "poi-mesh"}},
        "type": "Opaque",
        "stringData": values,
    }


def credentials() -> dict[str, object]:
    """New Secrets `redis` and `broker`, as one Kubernetes List. Passwords are URL-safe and need no quoting."""
    redis, ingest, alert, camera = (secrets.token_urlsafe(24) for _ in range(4))
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            secret("redis", {"password": redis, "url": f"redis://:{redis}@redis:6379/0"}),
            secret(
                "broker",
                {
                    "passwords": "".join(
                        broker_entry(*each) for each in (("ingest", ingest), ("alert", alert), ("camera", camera))
                    ),
                    "url": f"mqtt://ingest:{ingest}@mosquitto:1883",
                    "alert-url": f"mqtt://alert:{alert}@mosquitto:1883",
                    "camera-password": camera,
                },
            ),
        ],
    }


if __name__ == "__main__":
    json.dump(credentials(), sys.stdout, indent=2)
    print()
