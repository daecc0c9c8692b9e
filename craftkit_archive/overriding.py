"""`override` as in `typing` since Python 3.12: the type checker's, and at run time a decorator that does nothing.

That of typing_extensions brings inspect, ast and dis along, which cost each worker process 7 ms of its 70.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import override as override
else:

    def override(method):
        """Return the method as it is."""
        return method
