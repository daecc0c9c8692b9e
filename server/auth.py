"""Authenticates requests by their API keys."""

from craftkit_archive.catalog import Catalog
from craftkit_archive.catalog.rows import KeyRow
from craftkit_archive.errors import ForbiddenError, UnauthorizedError
from craftkit_archive.values import hash_key
from server.context import RequestContext


def find_caller(catalog: Catalog, context: RequestContext) -> KeyRow:
    """Return the API key of a request, with its project, and note both in the context.

    A wrong key is answered at once: keys are long and random, so guessing is hopeless, and a delay would only look like
    a fault of the server. The log names the client's address, for fail2ban. The catalog is queried for each request, so
    that a revoked key stops working with the next one.

    Raises:
        UnauthorizedError: The key is missing, invalid or revoked.
        ForbiddenError: The key's project no longer exists.
    """
    scheme, _, key = context.environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key.startswith(("ck_live_", "ck_test_")):
        raise UnauthorizedError("Send a project API key as `Authorization: Bearer ck_live_…`.")
    found = catalog.find_key(hash_key(key))
    if found is None or found.revoked:
        raise UnauthorizedError("The API key is invalid or revoked.")
    if found.project_gone:
        raise ForbiddenError("The project of this API key no longer exists.")
    context.key_id, context.project_id = found.key_id, found.project_id
    return found
