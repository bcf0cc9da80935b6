"""Which addresses a target may be at."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import pytest

from alert_svc.delivery.addresses import Guard, Refused


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",  # Alibaba's metadata
        "169.254.169.254",  # AWS's, Google's, Azure's
        "168.63.129.16",
        "192.0.0.192",  # Oracle's
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "64:ff9b:1::1",
        "ff02::1",
    ],
)
def test_private_addresses_are_refused(address: str) -> None:
    assert not Guard().allows(ip_address(address))
    assert not Guard().may_be_named(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert Guard().allows(ip_address(address))


def test_a_network_that_is_allowed_opens_itself_only() -> None:
    guard = Guard([ip_network("10.20.0.0/16"), ip_network("fd12::/16")])

    assert guard.allows(ip_address("10.20.3.4"))
    assert guard.allows(ip_address("::ffff:10.20.3.4"))
    assert guard.allows(ip_address("fd12::1"))
    assert not guard.allows(ip_address("10.21.0.1"))
    assert not guard.allows(ip_address("169.254.169.254"))


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001"])
async def test_names_and_odd_spellings_of_this_machine_are_refused(host: str) -> None:
    with pytest.raises((Refused, socket.gaierror)):
        await Guard().resolve(host, 80)


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example"])
async def test_what_is_no_name_of_a_host_is_said_to_be_none(host: str) -> None:
    with pytest.raises(OSError, match=r"is no name of a host|not known"):
        await Guard().resolve(host, 80)


async def test_a_name_gives_its_allowed_addresses_only() -> None:
    assert await Guard([ip_network("127.0.0.0/8")]).resolve("localhost", 80) == ["127.0.0.1"]
