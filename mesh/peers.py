"""From where a call comes."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

_SPIFFE: Final = "peer_spiffe_id"
_GATEWAY: Final = b"/gateway"
HEADER: Final = "x-poi-client"
"""In which the gateway says what address it sees; it writes over what clients say there."""
_MOST: Final = 500
_NETWORK_BITS: Final = 64


def peer_of(context: Any) -> str:
    """The address at the other end; of a call that came through the gateway, the one that the gateway saw as well.

    Others may write what they like into their headers: only who shows the gateway's certificate is believed.
    """
    peer, seen = str(context.peer()), _forwarded(context)
    return (peer if seen is None else f"{seen} via {peer}")[:_MOST]


def address_of(context: Any) -> str:
    """The host that calls, without its port: of one behind the gateway, as the gateway saw it. See `host_of`."""
    return host_of(_forwarded(context) or str(context.peer()).rpartition(":")[0].partition(":")[2])


@lru_cache(maxsize=4096)
def host_of(address: str) -> str:
    """An address as one caller has it: of IPv6 the network (/64), because whoever has one address there has them all.

    >>> host_of("192.0.2.7"), host_of("2001:db8::1:7"), host_of("[2001:db8::9]")
    ('192.0.2.7', '2001:db8::/64', '2001:db8::/64')
    """
    text = unquote(address).strip("[]")
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:  # a Unix socket's, say
        return text[:_MOST]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _NETWORK_BITS), strict=False))


def _forwarded(context: Any) -> str | None:
    """What the gateway says about its client; None of a call that it does not make."""
    shown = context.auth_context().get(_SPIFFE)
    if shown and shown[0].endswith(_GATEWAY):
        for key, value in context.invocation_metadata() or ():
            if key == HEADER:
                return str(value)
    return None
