"""Which addresses a target may be at: public ones, and those of networks that the server is set to allow.

A target's URL is a way for whoever may create targets to have this server call others inside its network (server-side
request forgery): the store's machines, the cluster, a cloud's metadata service.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# What Python's `is_global` (3.11) counts as public.
_NEVER_PUBLIC: Final[tuple[Network, ...]] = (
    ip_network("168.63.129.16/32"),  # Azure's metadata and DNS: the one such service at a public address
    ip_network("100.64.0.0/10"),  # carrier-grade NAT, which clusters use inside; Alibaba's metadata
    ip_network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata
    ip_network("192.88.99.0/24"),  # 6to4 relays
    ip_network("64:ff9b:1::/48"),  # NAT64 inside a network
    ip_network("fec0::/10"),  # site-local, deprecated
    ip_network("::/96"),  # IPv4-compatible, deprecated
)
_NAT64: Final = ip_network("64:ff9b::/96")


class Refused(Exception):
    """The address is private and not allowed, or the name has none."""


class Guard:
    """Says which addresses may be connected to."""

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        """`allowed`: private networks that targets may be in."""
        self._allowed = tuple(allowed)

    def allows(self, address: Address) -> bool:
        """Whether a target may be there."""
        address = _embedded(address)
        if any(address in network for network in self._allowed):
            return True
        return address.is_global and not address.is_multicast and not any(address in net for net in _NEVER_PUBLIC)

    def may_be_named(self, host: str) -> bool:
        """False for a literal address that is refused; a name is looked at when it is resolved."""
        try:
            return self.allows(ip_address(host))
        except ValueError:
            return True

    async def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to. Connect to one of these, and not to the name: a second
        look-up may give another answer.

        Raises Refused, OSError (no such host).
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except UnicodeError:  # an empty label, or one that is too long
            raise OSError(f"{host[:100]!r} is no name of a host") from None
        addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
        allowed = [text for text in addresses if self.allows(ip_address(text))]
        if not allowed:
            raise Refused(f"{host} is a private address, which the server does not allow")
        return allowed


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it stands for one."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)
    return address
