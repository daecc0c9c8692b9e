"""Keep, check, export and serve the PDFs of a Craftkit project, outside Craftkit.

Everything in `__all__` can be imported from here, and only that is a stable interface. Each name is loaded when it is
first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from craftkit_archive.archive import Archive
    from craftkit_archive.audit.access import record_access_log
    from craftkit_archive.audit.log import list_events, verify_log
    from craftkit_archive.audit.sealing import seal_archive
    from craftkit_archive.catalog.rows import Selection
    from craftkit_archive.disposal.certificate import write_certificate
    from craftkit_archive.disposal.run import dispose_renders
    from craftkit_archive.doctor import examine_archive
    from craftkit_archive.errors import (
        AccessError,
        ArchiveError,
        AssetError,
        CatalogError,
        DiskError,
        LockedError,
        NoArchiveError,
        RemoteError,
        RequestError,
        StoreError,
    )
    from craftkit_archive.export.check import check_export
    from craftkit_archive.export.destination import Options as ExportOptions
    from craftkit_archive.export.run import export_assets
    from craftkit_archive.fetch.run import fetch_assets
    from craftkit_archive.importer.run import import_records
    from craftkit_archive.lookup import list_findings, list_renders, list_runs, show_run
    from craftkit_archive.records import (
        AuditEvent,
        AuditFault,
        DueRender,
        ExportMade,
        Finding,
        FindingInfo,
        Hold,
        Note,
        Plan,
        Planned,
        Progress,
        Record,
        Reject,
        RenderInfo,
        RetentionRule,
        RunInfo,
        Skipped,
        Summary,
        Tombstone,
    )
    from craftkit_archive.repair.rebuild import rebuild_archive
    from craftkit_archive.repair.restore import restore_catalog
    from craftkit_archive.repair.run import repair_assets
    from craftkit_archive.report.gather import describe_archive, gather_report, write_report
    from craftkit_archive.retention.rules import (
        list_due,
        list_holds,
        list_retention,
        place_hold,
        release_hold,
        remove_retention,
        set_retention,
    )
    from craftkit_archive.verify.run import Limits as VerifyLimits
    from craftkit_archive.verify.run import Scope as VerifyScope
    from craftkit_archive.verify.run import verify_assets

__version__ = "0.1.0"
__all__ = [
    "AccessError",
    "Archive",
    "ArchiveError",
    "AssetError",
    "AuditEvent",
    "AuditFault",
    "CatalogError",
    "DiskError",
    "DueRender",
    "ExportMade",
    "ExportOptions",
    "Finding",
    "FindingInfo",
    "Hold",
    "LockedError",
    "NoArchiveError",
    "Note",
    "Plan",
    "Planned",
    "Progress",
    "Record",
    "Reject",
    "RemoteError",
    "RenderInfo",
    "RequestError",
    "RetentionRule",
    "RunInfo",
    "Selection",
    "Skipped",
    "StoreError",
    "Summary",
    "Tombstone",
    "VerifyLimits",
    "VerifyScope",
    "__version__",
    "check_export",
    "describe_archive",
    "dispose_renders",
    "examine_archive",
    "export_assets",
    "fetch_assets",
    "gather_report",
    "import_records",
    "list_due",
    "list_events",
    "list_findings",
    "list_holds",
    "list_renders",
    "list_retention",
    "list_runs",
    "place_hold",
    "rebuild_archive",
    "record_access_log",
    "release_hold",
    "remove_retention",
    "repair_assets",
    "restore_catalog",
    "seal_archive",
    "set_retention",
    "show_run",
    "verify_assets",
    "verify_log",
    "write_certificate",
    "write_report",
]

# The module each name lives in; after a colon, what it is called there.
_MODULES = {
    "archive": ["Archive"],
    "audit.access": ["record_access_log"],
    "audit.log": ["list_events", "verify_log"],
    "audit.sealing": ["seal_archive"],
    "catalog.rows": ["Selection"],
    "disposal.certificate": ["write_certificate"],
    "disposal.run": ["dispose_renders"],
    "doctor": ["examine_archive"],
    "errors": [
        "AccessError",
        "ArchiveError",
        "AssetError",
        "CatalogError",
        "DiskError",
        "LockedError",
        "NoArchiveError",
        "RemoteError",
        "RequestError",
        "StoreError",
    ],
    "export.check": ["check_export"],
    "export.destination": ["ExportOptions:Options"],
    "export.run": ["export_assets"],
    "fetch.run": ["fetch_assets"],
    "importer.run": ["import_records"],
    "lookup": ["list_findings", "list_renders", "list_runs", "show_run"],
    "records": [
        "AuditEvent",
        "AuditFault",
        "DueRender",
        "ExportMade",
        "Finding",
        "FindingInfo",
        "Hold",
        "Note",
        "Plan",
        "Planned",
        "Progress",
        "Record",
        "Reject",
        "RenderInfo",
        "RetentionRule",
        "RunInfo",
        "Skipped",
        "Summary",
        "Tombstone",
    ],
    "repair.rebuild": ["rebuild_archive"],
    "repair.restore": ["restore_catalog"],
    "repair.run": ["repair_assets"],
    "report.gather": ["describe_archive", "gather_report", "write_report"],
    "retention.rules": [
        "list_due",
        "list_holds",
        "list_retention",
        "place_hold",
        "release_hold",
        "remove_retention",
        "set_retention",
    ],
    "verify.run": ["VerifyLimits:Limits", "VerifyScope:Scope", "verify_assets"],
}
_HOMES = {name.partition(":")[0]: (module, name) for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, full = _HOMES[name]
    value = getattr(import_module(f"{__name__}.{module}"), full.rpartition(":")[2])
    globals()[name] = value  # so that the next use does not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
