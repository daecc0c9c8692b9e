"""Who is asking: the project of a request's API key."""

from craftkit_archive.catalog import Catalog
from craftkit_archive.errors import ForbiddenError, UnauthorizedError
from craftkit_archive.values import hash_key


def project_of(catalog: Catalog, authorization: str | None) -> str:
    """Return the id of the project whose key a request carries.

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
    return found.project_id
