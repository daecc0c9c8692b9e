"""The addresses of clients, trusted proxies, and the host names of requests."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

UNIX = "unix"  # the address of a client that is connected through a Unix socket
_HOST = re.compile(r"([a-z0-9](?:[a-z0-9._-]*[a-z0-9.])?|\[[0-9a-f:.]+\])(?::(\d{0,5}))?", re.IGNORECASE | re.ASCII)
_PARAMETER = re.compile(r'(?:^|;)[ \t]*(\w+)=(?:"([^"\\]*)"|([^\s;"]*))[ \t]*(?=;|$)', re.ASCII)
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\S*)?|([\d.]+):\S*")
_MAPPED = IPv6Network("::ffff:0:0/96")


# Cached, because a server sees the same addresses again and again, and each request parses its own.
@lru_cache(maxsize=4096)
def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an IP address, with or without a port; None if it is not valid.

    An IPv4 address in IPv6 form (`::ffff:192.0.2.1`), as on a dual-stack socket, becomes the IPv4 address.
    """
    found = _WITH_PORT.fullmatch(text)
    try:
        # The zone after a % is dropped, because it may be any text, and could forge a line of the log.
        address = ip_address((found[1] or found[2] or "" if found else text).partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text, strict=False)
    mapped = isinstance(network, IPv6Network) and network.subnet_of(_MAPPED)
    return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96)) if mapped else network


class TrustedProxies:
    """The proxies whose forwarding headers are trusted: addresses, networks, and `unix` for Unix sockets.

    Raises:
        ValueError: A name is neither an address nor a network nor `unix`.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        given = set(names)
        self._unix = UNIX in given
        self._networks = [_network(name) for name in sorted(given - {UNIX})]

    def __contains__(self, address: str) -> bool:
        known = parse_address(address)
        return any(known in network for network in self._networks) if known else self._unix and address == UNIX


def client_address(environ: Mapping[str, str], proxies: TrustedProxies) -> str:
    """Return the client's address: the last one in the chain of proxies that is not a trusted proxy."""
    address = environ.get("REMOTE_ADDR", "")
    if address not in proxies:
        return address
    chain = _forwarded(environ, "for")
    while chain and address in proxies and (known := parse_address(chain.pop())):
        address = str(known)
    return address


def _forwarded(environ: Mapping[str, str], name: str) -> list[str]:
    """Return what proxies forwarded as `for`, `proto` or `host`, the nearest proxy last.

    A proxy appends to one of the two headers, and passes a forged other one through. Most proxies append to
    `X-Forwarded-…`, which is preferred. In `Forwarded`, a comma ends an element even inside quotes, where no address or
    host contains one, so that nothing that a client sent can swallow what a proxy appended.

    Source: RFC 7239, section 4.
    """
    if given := environ.get(f"HTTP_X_FORWARDED_{name.upper()}"):
        return [text.strip() for text in given.split(",")]
    elements = [_PARAMETER.findall(element) for element in environ.get("HTTP_FORWARDED", "").split(",")]
    named = [{key.lower(): quoted or plain for key, quoted, plain in element} for element in elements]
    return [element.get(name, "") for element in named]


def is_host(text: str) -> bool:
    """Return whether a `Host` header is a host, with or without a port, and nothing else.

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

    It is the operator's (`fixed`), unless the request names one of `allowed_hosts` (in lower case); without either, it
    is any valid host that the request names. If a proxy is `trusted`, scheme and host come from what it forwards.
    """
    scheme, host = environ["wsgi.url_scheme"], environ.get("HTTP_HOST", "")
    if trusted:
        host = _forwarded(environ, "host")[-1] or host
        proto = _forwarded(environ, "proto")[-1].lower()
        scheme = proto if proto in ("http", "https") else scheme
    host = host.lower()
    named = host in allowed_hosts or host.rpartition(":")[0] in allowed_hosts
    if is_host(host) and (named or not (allowed_hosts or fixed)):
        return f"{scheme}://{host}"
    return (fixed or fallback).rstrip("/")
