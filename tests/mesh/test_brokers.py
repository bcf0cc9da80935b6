"""Addresses of brokers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh import brokers
from mesh.settings import TlsFiles


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://broker", "is not mqtt://"),
        ("mqtt://broker/path", "is not mqtt://"),
        ("mqtts://broker?ca=/tls/ca.crt", "ca: there are"),
        ("mqtt://broker?ssl_ca_certs=/tls/ca.crt", "files are for mqtts"),
        ("mqtts://broker?ssl_certfile=/tls/tls.crt", "go together"),
    ],
)
def test_what_is_wrong_is_said(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        brokers.check(url)


def test_an_address_keeps_what_it_names() -> None:
    url = brokers.with_files("mqtts://ann:secret@broker:8883", TlsFiles(Path("/a&b.crt"), Path("/k"), Path("/ca")))

    assert brokers.check(url) == url
    assert brokers.files(url) == {"ssl_ca_certs": "/ca", "ssl_certfile": "/a&b.crt", "ssl_keyfile": "/k"}
    assert brokers.files("mqtts://broker") == {}
