"""Who is asking: the key of a request, the address it comes from, and how often that one was wrong."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from threading import Lock

from craftkit_archive.catalog import Catalog, KeyRow
from craftkit_archive.errors import ForbiddenError, UnauthorizedError
from craftkit_archive.values import hash_key

FREE_FAILURES = 5
FORGET_SECONDS = 600.0
MAX_HOLD_SECONDS = 10.0
MAX_ADDRESSES = 4096


def find_caller(catalog: Catalog, authorization: str | None) -> KeyRow:
    """Return the key that a request carries, with its project.

    Args:
        catalog: Asked anew for each request, so that a revoked key stops working with the next one.
        authorization: The `Authorization` header's value.

    Raises:
        UnauthorizedError: The key is missing, invalid or revoked.
        ForbiddenError: The key's project no longer exists.
    """
    scheme, _, key = (authorization or "").strip().partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key.startswith(("ck_live_", "ck_test_")):
        raise UnauthorizedError("Send a project API key as `Authorization: Bearer ck_live_…`.")
    found = catalog.find_key(hash_key(key))
    if found is None or found.revoked:
        raise UnauthorizedError("The API key is invalid or revoked.")
    if found.project_gone:
        raise ForbiddenError("The project of this API key no longer exists.")
    return found


def address_of(environ: Mapping[str, str], trusted_proxies: frozenset[str]) -> str:
    """Return the address of the client: what a trusted proxy says, and otherwise who is connected."""
    address = environ.get("REMOTE_ADDR", "")
    if address in trusted_proxies:
        told = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
        try:
            # What follows a % is any text, which could forge a line of the log.
            return str(ip_address(told.partition("%")[0]))
        except ValueError:
            return address
    return address


class Brake:
    """Counts failed log-ins by address and says how long the answer to the next one is to be held back.

    A good key is never held back: whoever shares an address with a guesser is not locked out. Memory is bounded: of
    too many addresses, those heard of longest ago are forgotten.

    Args:
        clock: Tells seconds, from any beginning.
        max_hold_seconds: The longest time; 0 holds nothing back.
    """

    def __init__(self, clock: Callable[[], float], *, max_hold_seconds: float = MAX_HOLD_SECONDS) -> None:
        self._clock = clock
        self._max_hold_seconds = max_hold_seconds
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = Lock()

    def failed(self, address: str) -> float:
        """Note a failure, and return for how many seconds its answer is to be held back."""
        who, now = _household(address), self._clock()
        with self._lock:
            count, last = self._failures.pop(who, (0, now))
            count = 1 if now - last > FORGET_SECONDS else count + 1
            self._failures[who] = (count, now)
            if len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
        return 0.0 if count <= FREE_FAILURES else min(2.0 ** min(count - FREE_FAILURES - 1, 10), self._max_hold_seconds)


def _household(address: str) -> str:
    """Take the addresses of one IPv6 network, which one host has by the billion, for one."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    return str(IPv6Address(int(known) >> 64 << 64)) if isinstance(known, IPv6Address) else address
