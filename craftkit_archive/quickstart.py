"""The steps of `quickstart`: the main commands on a folder of samples."""

import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from craftkit_archive.archive import Archive
from craftkit_archive.catalog.rows import ExportRow
from craftkit_archive.errors import RemoteError, RequestError
from craftkit_archive.export.run import export_assets
from craftkit_archive.fetch.run import fetch_assets
from craftkit_archive.importer.run import import_records
from craftkit_archive.parallel.batches import Stop, never
from craftkit_archive.records import KINDS, KeyInfo, Record
from craftkit_archive.verify.run import verify_assets

KEY_NAME = "quickstart"


class QuickstartStep(NamedTuple):
    """One step: its title, and its records, which are produced when they are drawn."""

    title: str
    records: Iterator[Record]


def quickstart_steps(
    archive: Archive, directory: Path, export_to: Path, *, jobs: int = 1, stop: Stop = never
) -> Iterator[QuickstartStep]:
    """Yield the steps that archive and check a folder of samples; run each before drawing the next.

    Args:
        archive: Open for writing.
        directory: The folder, with projects, keys and renders as .json or .ndjson, and the PDFs in `bucket/`.
        export_to: The target of the export.
        jobs: How many processes work.
        stop: Asked by the steps.

    Raises:
        RequestError: A file is missing from the folder.
    """
    files = {kind: _input(directory, kind) for kind in KINDS}
    for kind, file in files.items():
        yield QuickstartStep(f"Import {kind} from {file}", import_records(archive, kind, [str(file)], stop=stop))
    bucket = directory / "bucket"
    yield QuickstartStep(f"Fetch PDFs from {bucket}", fetch_assets(archive, str(bucket), jobs=jobs, stop=stop))
    yield QuickstartStep("Verify every byte", verify_assets(archive, jobs=jobs, stop=stop))
    yield QuickstartStep(f"Export to {export_to}", export_assets(archive, export_to, jobs=jobs, stop=stop))


def _input(directory: Path, kind: str) -> Path:
    for suffix in (".json", ".ndjson"):
        file = directory / f"{kind}{suffix}"
        if file.exists():
            return file
    raise RequestError(f"{directory} has no {kind}.json or {kind}.ndjson. Name a folder like data/sample.")


def choose_download(archive: Archive) -> tuple[ExportRow, KeyInfo]:
    """Choose a stored PDF to download, and create a test key for its project; earlier test keys are revoked.

    Raises:
        RequestError: No PDF that could be downloaded is stored.
    """
    known = archive.catalog.project_summaries()
    projects = [project for project in known if project.stored and archive.catalog.accepts_keys(project.id)]
    if not projects:
        raise RequestError("Nothing was stored that could be served. Put the PDFs into bucket/.")
    project_id = max(projects, key=lambda project: project.stored).id
    asset = next(row for row in archive.catalog.export_rows(archive.select(projects=(project_id,))) if row.sha256)
    for key in archive.list_keys(project_id):
        if key.name == KEY_NAME and key.revoked_at is None:
            archive.revoke_key(key.id)
    return asset, archive.create_key(project_id, name=KEY_NAME, test=True)


def download(url: str, key: KeyInfo, asset: ExportRow) -> int:
    """Download an asset as a client would, compare it with its record, and return its size in bytes.

    Raises:
        RemoteError: The server does not answer, or answers with other bytes.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key.key}"})  # noqa: S310 - our own URL
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            body = answer.read()
    except OSError as error:
        raise RemoteError(f"{url} did not answer with a PDF ({error}). Look at the lines above.") from error
    if sha256(body).hexdigest() != asset.sha256:
        raise RemoteError(f"{url} answered with other bytes than the recorded ones. Run `craftkit-archive verify`.")
    return len(body)
