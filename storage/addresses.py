"""Where webhooks may go: out, never into the network of the service. Checked when one is made, and again before every single delivery."""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from certify.errors import InputError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LONGEST = 2000
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Target(NamedTuple):
    """An address to connect to, and the name that the receiver's certificate must have."""

    address: str
    host: str
    port: int


def check_url(url: str, *, private: bool) -> None:
    """Refuse an address that no event should ever be sent to. A name that cannot be resolved now is looked up again at each delivery.

    Raises:
        InputError: not an http or https URL, credentials in it, or it leads into a private network and `private` is false.
    """
    try:
        target(url, private=private)
    except Unreachable:
        return


class Unreachable(InputError):
    """The host of a webhook has no address."""

    code = "unreachable"


def target(url: str, *, private: bool) -> Target:
    """The one address a delivery connects to. It is looked up once: a name that answers differently a moment later changes nothing.

    Raises:
        Unreachable: the name cannot be resolved.
        InputError: see `check_url`.
    """
    parts = _parts(url)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unreachable.at("url", f"{host} cannot be resolved", "check its spelling") from None
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not private and not all(is_public(address) for address in addresses):
        mend = "use an address that can be reached from outside; ASSAY_WEBHOOK_PRIVATE=1 allows others for the whole service"
        raise InputError.at("url", f"{host} lies in a private network", mend)
    return Target(addresses[0], host, port)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to somebody outside: not to this machine, its network or a cloud's metadata service."""
    ip = _embedded(ipaddress.ip_address(address))
    site_local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or site_local)


def _embedded(ip: _Address) -> _Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and url.isascii()
            and url.isprintable()
            and " " not in url
        )
    except ValueError:  # a port that is no number, brackets that are not closed
        usable = False
    if not usable or len(url) > _LONGEST:
        raise InputError.at("url", "is not an http or https URL", "write for example https://ci.example.org/hooks/assay")
    if parts.username is not None or parts.password is not None:
        raise InputError.at("url", "contains credentials", "leave them out: the receiver knows us by the signature")
    return parts
