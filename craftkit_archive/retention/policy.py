"""The only place that decides whether the bytes of a render may be deleted."""

from collections.abc import Sequence

from craftkit_archive.catalog import Catalog


def refusals(catalog: Catalog, render_ids: Sequence[str]) -> dict[str, str]:
    """Map those of these renders whose bytes must not be deleted to the reason.

    Call it while holding the archive's lock, and keep the lock until the bytes are deleted: `hold place` takes it too,
    so that no hold can come in between.
    """
    return {
        render_id: f"held by {', '.join(names)}; see `hold list`"
        for render_id, names in catalog.held_by(render_ids).items()
    }
