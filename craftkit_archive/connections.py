"""HTTP connections that use the environment's proxy, and retry without reading the body of a refusal."""

from typing import Any, Self
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, make_headers

from craftkit_archive.errors import RequestError
from craftkit_archive.values import origin_of


class UnreadRetry(Retry):
    """urllib3's retry policy, except that the body of a refusal, which may be endless, is not read."""

    def increment(self, *arguments: Any, **given: Any) -> Self:
        """Return the policy for the next attempt, and close the refused answer unread."""
        if given.get("response") is not None:
            given["response"].close()
        return super().increment(*arguments, **given)


def open_pool(address: str, **given: Any) -> urllib3.PoolManager:
    """Return a connection pool for an address, through the environment's proxy if it names one.

    Args:
        address: The URL that requests will go to.
        given: Arguments for `urllib3.PoolManager`.

    Raises:
        RequestError: The URL of the proxy in the environment is not valid.
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
