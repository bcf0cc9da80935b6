"""Addresses of MQTT brokers: `mqtt://[user:password@]host[:port]`, or `mqtts://` for TLS.

With TLS the system's authorities are trusted, or those of a file, and a certificate can be shown. The files are named
as in the address of a Redis (`rediss://`, redis-py):

    mqtts://broker:8883?ssl_ca_certs=/tls/ca.crt&ssl_certfile=/tls/tls.crt&ssl_keyfile=/tls/tls.key
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode, urlsplit

if TYPE_CHECKING:
    from mesh.settings import TlsFiles

_ADDRESS: Final = re.compile(r"mqtts?://[^\s/?]+/?(\?\S*)?")
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def check(url: str) -> str:
    """The address, as it is. Raises ValueError."""
    if not _ADDRESS.fullmatch(url):
        raise ValueError("is not mqtt://host:port or mqtts://host:port")
    given = parse_qs(urlsplit(url).query, keep_blank_values=True)
    if unknown := given.keys() - set(_FILES):
        raise ValueError(f"{', '.join(sorted(unknown))}: there are {', '.join(_FILES)}")
    if given and not url.startswith("mqtts:"):
        raise ValueError("files are for mqtts://")
    if ("ssl_certfile" in given) != ("ssl_keyfile" in given):
        raise ValueError("ssl_certfile and ssl_keyfile go together")
    return url


def files(url: str) -> Mapping[str, str]:
    """The files that an address names, by what they are called there."""
    return {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}


def tls_context(url: str) -> ssl.SSLContext:
    """For a connection, made anew for each so that files that were exchanged count. Raises OSError."""
    named = files(url)
    context = ssl.create_default_context(cafile=named.get("ssl_ca_certs"))
    if "ssl_certfile" in named:
        context.load_cert_chain(named["ssl_certfile"], named["ssl_keyfile"])
    return context


def with_files(url: str, identity: TlsFiles) -> str:
    """The address of a broker for whoever has this identity."""
    values = (identity.ca, identity.certificate, identity.key)
    return f"{url}?{urlencode(dict(zip(_FILES, map(str, values), strict=True)))}"
