"""Warnings about records that an import accepts and that cause trouble later, and what to do after an import."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from craftkit_archive.archive import Archive
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.errors import AssetError
from craftkit_archive.records import Caution, Kind
from craftkit_archive.stores.folder import FolderStore

NAMED = 5
# How many new renders are looked up to see whether there is anything to fetch.
OWING_LOOKED_AT = 50


def find_cautions(archive: Archive, kind: Kind) -> list[Caution]:
    """Return warnings about the catalog as it is now, of the sort that records of this kind can cause."""
    return _shared_slugs(archive) if kind == "projects" else _without_project(archive, kind)


def _shared_slugs(archive: Archive) -> list[Caution]:
    shared = archive.catalog.shared_slugs()
    if not shared:
        return []
    names = [f"{slug} ({', '.join(ids[:NAMED])})" for slug, ids in shared[:NAMED]]
    verb = "slug belongs" if len(shared) == 1 else "slugs belong"
    text = (
        f"{len(shared):,} {verb} to several projects: {_listed(names, len(shared))}. Commands refuse a slug like that:"
        " name the project by its id, or correct the slug and import it again."
    )
    return [Caution(warning="slug-twice", count=len(shared), names=names, text=text)]


def _without_project(archive: Archive, kind: Kind) -> list[Caution]:
    missing = archive.catalog.without_project(kind)
    if not missing:
        return []
    names = [project_id for project_id, _ in missing[:NAMED]]
    count = sum(count for _, count in missing)
    records = kind if count != 1 else kind.removesuffix("s")
    projects = f"{len(missing):,} {'project' if len(missing) == 1 else 'projects'}"
    verb = "belong" if count != 1 else "belongs"
    these = "this project" if len(missing) == 1 else "these projects"
    later = "are refused (403)" if kind == "keys" else "cannot be downloaded, and exports name the project by its id"
    text = (
        f"{count:,} {records} {verb} to {projects} that {'is' if len(missing) == 1 else 'are'} not in the catalog:"
        f" {_listed(names, len(missing))}. Import {these} too: until then the {kind} {later}."
    )
    return [Caution(warning="unknown-project", count=count, names=names, text=text)]


def _listed(names: Sequence[str], count: int) -> str:
    more = f", and {count - len(names):,} more" if count > len(names) else ""
    return f"{', '.join(names)}{more}"


def describe_next(archive: Archive, kind: Kind, owing: Sequence[str], cautions: Sequence[Caution]) -> dict[str, Any]:
    """Return the details from which `next_steps` advises: is there anything to fetch, and is it in the store already?

    Args:
        archive: The archive.
        kind: The kind of records that were imported.
        owing: Ids of some imported renders that should have a PDF.
        cautions: The warnings that were given.
    """
    details: dict[str, Any] = {"kind": kind}
    if cautions:
        details["warnings"] = [msgspec.structs.asdict(caution) for caution in cautions]
    if kind != "renders":
        return details | {"renders": archive.catalog.has_renders()}
    expected = list(islice(archive.catalog.expected_assets(Selection(render_ids=tuple(owing))), OWING_LOOKED_AT))
    details["to_fetch"] = bool(expected)
    # Only in a folder: asking a bucket means network requests, too much for a hint.
    if isinstance(archive.store, FolderStore) and Path(archive.store.address).is_dir():
        details["adoptable"] = any(_is_there(archive.store, asset.key) for asset in expected)
    return details


def _is_there(store: FolderStore, key: str) -> bool:
    with suppress(AssetError):
        store.find(key)
        return True
    return False
