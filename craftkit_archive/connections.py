"""Connections over HTTP: by the proxy that the environment names, and retried without reading what refuses."""

from typing import Any, Self
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, make_headers

from craftkit_archive.errors import RequestError
from craftkit_archive.values import origin_of


class UnreadRetry(Retry):
    """urllib3's policy, but for a refusal whose body has no end, which urllib3 would read first."""

    def increment(self, *arguments: Any, **given: Any) -> Self:
        """Return the policy for the next attempt; the answer that asks for it is closed unread."""
        if given.get("response") is not None:
            given["response"].close()
        return super().increment(*arguments, **given)


def open_pool(address: str, **given: Any) -> urllib3.PoolManager:
    """Make the connections to an address: by the environment's proxy, with its password if its URL has one.

    Args:
        address: Where requests will go.
        given: What `urllib3.PoolManager` takes.

    Raises:
        RequestError: The environment names a proxy that is not one.
    """
    parts = urlsplit(address)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if not proxy:
        return urllib3.PoolManager(**given)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        at = urlsplit(proxy)
        headers = None
        if at.username is not None:
            headers = make_headers(proxy_basic_auth=f"{unquote(at.username)}:{unquote(at.password or '')}")
        return urllib3.ProxyManager(proxy, proxy_headers=headers, **given)
    except (HTTPError, ValueError) as error:
        raise RequestError(
            f"Cannot use the proxy that the environment names, {origin_of(proxy)}. Write http://host:port."
        ) from error
