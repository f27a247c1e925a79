"""Who the client is, by X-Forwarded-For and the trusted proxies."""

from __future__ import annotations

import ipaddress

import pytest

from streamproxy.wire.forwarded import address_of, is_trusted, original_client

TRUSTED = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("member", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7 ", "203.0.113.7"),
        ("203.0.113.7:54321", "203.0.113.7"),
        ('"203.0.113.7:1"', "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:0db8::0001]:443", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::FFFF:cb00:7107]:443", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("unknown", None),
        ("_hidden", None),
        ("", None),
        ("203.0.113.7:", None),
        ("203.0.113.7:port", None),
        ("203.0.113.7:123456", None),
        ("[2001:db8::1", None),
        ("[2001:db8::1]443", None),
        ('"203.0.113.7', None),
        ("203.0.113.7.9", None),
    ],
)
def test_an_address_is_found_in_every_form_of_the_field(member: str, address: str | None) -> None:
    assert address_of(member) == address


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (b"203.0.113.7", "203.0.113.7"),
        (b"192.0.2.1, 203.0.113.7", "203.0.113.7"),
        (b"203.0.113.7, 10.0.0.2:80, [fd00::1]:443", "203.0.113.7"),
        (b"203.0.113.7, unknown, 10.0.0.2", "10.0.0.2"),
        (b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (b"203.0.113.7, ::ffff:10.0.0.2", "203.0.113.7"),
        (b"203.0.113.7,", "203.0.113.7"),
        (b"203.0.113.7, , 10.0.0.2,\t,", "203.0.113.7"),
        (b" ,, ", "10.0.0.1"),
        (b"nonsense", "10.0.0.1"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_nobody_trusts(chain: bytes, client: str) -> None:
    assert original_client(chain, "10.0.0.1", TRUSTED) == client


def test_an_address_of_ipv4_within_ipv6_is_that_of_ipv4() -> None:
    assert is_trusted("::ffff:10.1.2.3", TRUSTED)
    assert not is_trusted("::ffff:192.0.2.1", TRUSTED)
    assert not is_trusted("/run/socket", TRUSTED)
