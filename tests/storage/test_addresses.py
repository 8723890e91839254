"""Webhooks lead out, never into the network of the service."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from certify.errors import InputError
from storage.addresses import Unreachable, check_url, is_public, target

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]
PRIVATE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "fec0::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip


def test_addresses_that_belong_to_nobody_outside() -> None:
    assert [address for address in PUBLIC if not is_public(address)] == []
    assert [address for address in PRIVATE if is_public(address)] == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "https://127.0.0.1:8443/", "http://localhost/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://127.1/",
        "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://10.0.0.7:9000/",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_however_they_are_written(url: str) -> None:
    with pytest.raises(InputError, match="private network"):
        check_url(url, private=False)
    check_url(url, private=True)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ftp://example.org/", "not an http or https URL"),
        ("file:///etc/passwd", "not an http or https URL"),
        ("javascript:alert(1)", "not an http or https URL"),
        ("//example.org/x", "not an http or https URL"),
        ("https://", "not an http or https URL"),
        ("https://example.org:99999/", "not an http or https URL"),
        ("https://example.org:0/", "not an http or https URL"),
        ("https://[::1/", "not an http or https URL"),
        ("https://exa mple.org/", "not an http or https URL"),
        ("https://example.org/\nHost: other", "not an http or https URL"),
        ("https://ex\u00e4mple.org/", "not an http or https URL"),
        ("https://8.8.8.8/" + "x" * 2000, "not an http or https URL"),
        ("https://me:secret@8.8.8.8/", "contains credentials"),
        ("https://8.8.8.8@127.0.0.1/", "contains credentials"),
        ("", "not an http or https URL"),
    ],
)
def test_what_is_no_usable_url_is_refused(url: str, text: str) -> None:
    for private in (True, False):
        with pytest.raises(InputError, match=text):
            check_url(url, private=private)


def answers(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: found)


def test_a_name_is_judged_by_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "8.8.8.8")
    assert target("https://hooks.example.org/x", private=False) == ("8.8.8.8", "hooks.example.org", 443)
    answers(monkeypatch, "8.8.8.8", "10.0.0.1")
    with pytest.raises(InputError, match="private network"):
        target("https://hooks.example.org/x", private=False)


def test_a_name_that_is_not_there_yet_is_taken_and_fails_at_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_args: Any, **_more: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    check_url("https://later.example.org/", private=False)
    with pytest.raises(Unreachable, match="cannot be resolved"):
        target("https://later.example.org/", private=False)
