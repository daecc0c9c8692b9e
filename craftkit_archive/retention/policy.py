"""The one place that decides whether bytes of a render may be deleted."""

from collections.abc import Sequence

from craftkit_archive.catalog import Catalog


def refusals(catalog: Catalog, render_ids: Sequence[str]) -> dict[str, str]:
    """Map those of these renders whose bytes must not be deleted to why not.

    Whoever deletes asks under the archive's lock and keeps it until the bytes are gone; `hold place` takes it too.
    """
    return {
        render_id: f"held by {', '.join(names)}; see `hold list`"
        for render_id, names in catalog.held_by(render_ids).items()
    }
