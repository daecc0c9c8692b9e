"""Where a request comes from and where it was sent: addresses, proxies that are trusted, and host names."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

UNIX = "unix"  # the address of whoever is connected through a Unix socket
_HOST = re.compile(r"([a-z0-9](?:[a-z0-9._-]*[a-z0-9.])?|\[[0-9a-f:.]+\])(?::(\d{0,5}))?", re.IGNORECASE | re.ASCII)
_PARAMETER = re.compile(r'(?:^|;)[ \t]*(\w+)=(?:"([^"\\]*)"|([^\s;"]*))[ \t]*(?=;|$)', re.ASCII)
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\S*)?|([\d.]+):\S*")
_MAPPED = IPv6Network("::ffff:0:0/96")


@lru_cache(maxsize=4096)
def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, with or without a port; None if it is not one.

    An IPv4 address in IPv6 form (`::ffff:192.0.2.1`) is the IPv4 address: on a dual-stack socket both are one host.
    """
    found = _WITH_PORT.fullmatch(text)
    try:
        # What follows a % may be any text, which could forge a line of the log.
        address = ip_address((found[1] or found[2] or "" if found else text).partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def plain_address(text: str) -> str:
    """Return an address in its shortest form, without a port; other texts as they are."""
    return str(parse_address(text) or text)


class TrustedProxies:
    """The proxies whose word about a client is taken: addresses, networks, and `unix` for Unix sockets.

    Raises:
        ValueError: A name is none of these.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        given = set(names)
        self._unix = UNIX in given
        networks = [ip_network(name, strict=False) for name in sorted(given - {UNIX})]
        self._networks = [
            IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
            if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED)
            else network
            for network in networks
        ]

    def __contains__(self, address: str) -> bool:
        if not self._networks or address == UNIX:
            return self._unix and address == UNIX
        known = parse_address(address)
        return known is not None and any(known in network for network in self._networks)


def client_address(environ: Mapping[str, str], proxies: TrustedProxies) -> str:
    """Return the client's address: the last one in the chain of proxies that is not itself a trusted proxy's."""
    address = environ.get("REMOTE_ADDR", "")
    if address not in proxies:
        return address
    # A proxy appends to one of the two headers and passes on a forged other one. Most proxies append to this one.
    if given := environ.get("HTTP_X_FORWARDED_FOR"):
        chain = [text.strip() for text in given.split(",")]
    else:
        chain = [element.get("for", "") for element in parse_forwarded(environ.get("HTTP_FORWARDED", ""))]
    while chain and address in proxies and (known := parse_address(chain.pop())):
        address = str(known)
    return address


def parse_forwarded(value: str) -> list[dict[str, str]]:
    """Read a `Forwarded` header into its elements, nearest proxy last.

    A comma ends an element even inside quotes, where no address or host has one: so nothing that a client sent swallows
    what a proxy appended.

    Source: RFC 7239, section 4.
    """
    elements = [_PARAMETER.findall(element) for element in value.split(",")]
    return [{name.lower(): quoted or plain for name, quoted, plain in element} for element in elements]


def is_host(text: str) -> bool:
    """Say whether a `Host` header names a host, with or without a port, and nothing else.

    Source: RFC 9112, section 3.2; of the names of RFC 3986, those that a host can have.
    """
    found = _HOST.fullmatch(text)
    if found is None or (found[2] and int(found[2]) > 65_535):
        return False
    return not found[1].startswith("[") or parse_address(found[1]) is not None


def base_url(
    environ: Mapping[str, str], *, fixed: str | None, allowed_hosts: frozenset[str], fallback: str, trusted: bool
) -> str:
    """Return the URL under which a client reaches this API, without a trailing slash.

    It is the operator's (`fixed`), or one of `allowed_hosts` (in lower case) that the request names; without either,
    any valid host that it names. Of a `trusted` proxy, scheme and host are taken from what it forwards.
    """
    scheme, host = environ["wsgi.url_scheme"], environ.get("HTTP_HOST", "")
    if trusted:
        nearest = parse_forwarded(environ.get("HTTP_FORWARDED", ""))[-1]
        scheme = _last(environ.get("HTTP_X_FORWARDED_PROTO")) or nearest.get("proto", "").lower() or scheme
        host = _last(environ.get("HTTP_X_FORWARDED_HOST")) or nearest.get("host") or host
        scheme = scheme if scheme in ("http", "https") else environ["wsgi.url_scheme"]
    host = host.lower()
    named = host in allowed_hosts or host.rpartition(":")[0] in allowed_hosts
    if is_host(host) and (named or not (allowed_hosts or fixed)):
        return f"{scheme}://{host}"
    return (fixed or fallback).rstrip("/")


def _last(value: str | None) -> str:
    return (value or "").rpartition(",")[2].strip().lower()
