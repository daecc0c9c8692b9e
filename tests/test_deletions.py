"""Nothing that deletes is overlooked: each place either removes what is ours alone, or asks whether it may."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_architecture import MODULES

# What deletes, by its last name: files and folders, objects of a bucket, and our own methods that do so.
DELETES = {
    "unlink",
    "rmtree",
    "rmdir",
    "remove",
    "removedirs",
    "delete",
    "delete_objects",
    "drop",
    "truncate",
    "ftruncate",
    "move_aside",
}
# The words of the service, as our own client is asked for them.
ASKS = {"delete_object", "delete_objects", "abort_multipart_upload"}

# Whoever is in here asks `refusals` under the archive's lock, before the first byte goes.
ASKING = {
    "craftkit_archive.disposal.run:_Disposal._delete",
    "craftkit_archive.export.run:_Export._settle_earlier",
    "craftkit_archive.repair.run:drop_quarantined",
}
# What these delete they are told by others: whoever calls them is in one of the tables by himself.
TOLD = {
    "craftkit_archive.disposal.run:_remove": "called by `_Disposal._delete` alone",
    "craftkit_archive.export.targets:FolderTarget.remove": "a file of an export",
    "craftkit_archive.repair.quarantine:Quarantine.drop": "a copy",
    "craftkit_archive.repair.quarantine:Quarantine.remove": "a copy",
    "craftkit_archive.stores.aws:S3Service.remove": "an object",
    "craftkit_archive.stores.bucket:BucketStore.remove": "an object",
    "craftkit_archive.stores.folder:FolderStore.remove": "a file",
    "craftkit_archive.stores.folder:FolderStore.move_aside": "kept elsewhere, what is not a file",
}
# Our own unfinished, temporary or derived files; never the bytes of a render that are not elsewhere too.
OWN = {
    "craftkit_archive.archive:Archive.recreate": "a catalog that was never finished",
    "craftkit_archive.proof.audit_file:AuditFile._write_whole": "a line that a full disk cut",
    "craftkit_archive.proof.audit_file:AuditFile.write": "a line that a killed writer left unfinished",
    "craftkit_archive.catalog.connection:Connection.back_up": "an unfinished backup",
    "craftkit_archive.catalog.connection:Connection.create": "a catalog that was never finished",
    "craftkit_archive.catalog.connection:_remove_stale": "unfinished backups",
    "craftkit_archive.columns:Table._kept": "columns of a table on the screen",
    "craftkit_archive.disposal.certificate:write_certificate": "a signature of an earlier text",
    "craftkit_archive.durable:remove_unfinished": "unfinished files of a process that was killed",
    "craftkit_archive.durable:replaced_when_whole": "an unfinished file",
    "craftkit_archive.export.check:_Check._check_lists": "a mark in memory",
    "craftkit_archive.export.manifests:Manifests._store": "lists, pages and a signature of an earlier export",
    "craftkit_archive.export.targets:FolderTarget.__enter__": "the manifest of an export that is being made anew",
    "craftkit_archive.export.targets:FolderTarget._take_index": "the index of an export that is being made anew",
    "craftkit_archive.export.targets:FolderTarget.close": "what an export needed while it was made",
    "craftkit_archive.export.targets:StoreTarget.remove": "a signature or timestamp of an earlier seal",
    "craftkit_archive.export.targets:PackedTarget.close": "room after the end of a file",
    "craftkit_archive.export.targets:PackedTarget.settle": "a piece in a temporary folder",
    "craftkit_archive.export.targets:lock_part": "an unfinished file",
    "craftkit_archive.export.unpacking:_unpack_tar": "a temporary file",
    "craftkit_archive.export.workers:FilesTask._link": "an unfinished file of an export",
    "craftkit_archive.export.workers:FilesTask._without": "a file of an export that is written anew",
    "craftkit_archive.export.workers:FilesTask._write": "an unfinished file of an export",
    "craftkit_archive.importer.run:keep_rejects": "an unfinished file",
    "craftkit_archive.lock:hold_lock": "what a lock says of its holder",
    "craftkit_archive.nightly.steps:prune_backups": "older backups of the catalog, as its configuration says",
    "craftkit_archive.repair.quarantine:Quarantine.tidy": "empty folders",
    "craftkit_archive.repair.restore:_put_in_place": "what SQLite keeps beside a catalog that is kept",
    "craftkit_archive.repair.restore:_remove": "a catalog that was never finished",
    "craftkit_archive.repair.run:_repair_afar": "a copy that it has made itself, of what is still in its place",
    "craftkit_archive.repair.run:_replace_copy": "a copy that it has made itself, of what is still in its place",
    "craftkit_archive.repair.run:restore_quarantined": "a copy whose bytes it has just put back",
    "craftkit_archive.repair.quarantine:Quarantine._keep": "nothing: it moves what is not a file to the quarantine",
    "craftkit_archive.audit.sealing:write_signed": "signatures and timestamps of an earlier text",
    "craftkit_archive.stores.aws:S3Service.abort_uploads": "uploads that were never finished, of an object or a volume",
    "craftkit_archive.stores.aws:S3Service.upload": "its own upload, which failed",
    "craftkit_archive.stores.folder:FolderStore.check_writable": "its own empty file",
    "craftkit_archive.stores.folder:FolderStore.quirks": "its own two empty files",
    "craftkit_archive.stores.folder:FolderStore.remove_stale": "unfinished files",
    "craftkit_archive.stores.reach:shown_folder": "its own token",
    "craftkit_archive.stores.folder:_discard": "an unfinished file",
    "server.access_log:AccessLog._append": "a line that a full disk cut",
    "server.serve:Supervisor.end": "its own sockets",
    "server.serve:Supervisor.tend": "a process that has ended, in memory",
    "server.serve:_listen_unix": "a socket that a killed server left",
}


def _calls(module: str, file: Path) -> Iterator[tuple[str, str]]:
    """Yield where something is deleted, as `module:Class.function`, and the line that does."""

    def walk(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                # A function in a function belongs to the outer one.
                is_inner = isinstance(node, ast.FunctionDef)
                inner = names if is_inner else (*names, child.name)
            yield from walk(child, inner)
            word = child.attr if isinstance(child, ast.Attribute) else None
            asks = isinstance(child, ast.Constant) and child.value in ASKS
            if word in DELETES or asks:
                yield f"{module}:{'.'.join(names)}", ast.unparse(child)

    yield from walk(ast.parse(file.read_text()), ())


PLACES = sorted({place for module, file in MODULES.items() for place, _ in _calls(module, file)})


def test_every_place_that_deletes_is_in_one_of_the_tables() -> None:
    tables = (ASKING, set(TOLD), set(OWN))
    assert sorted(place for place in PLACES if sum(place in table for table in tables) != 1) == []
    assert sorted({*TOLD, *OWN} - set(PLACES)) == [], "these delete nothing any more"


@pytest.mark.parametrize("place", sorted(ASKING))
def test_whoever_asks_does_so_before_the_first_byte_goes(place: str) -> None:
    module, _, name = place.partition(":")
    node: ast.AST = ast.parse(MODULES[module].read_text())
    for part in name.split("."):
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", "") == part)
    names = [
        (child.lineno, child.id if isinstance(child, ast.Name) else child.attr)
        for child in ast.walk(node)
        if isinstance(child, (ast.Name, ast.Attribute))
    ]
    asked = min(line for line, word in names if word == "refusals")
    assert all(asked < line for line, word in names if word in DELETES | {"_remove"})


def test_only_the_disposal_calls_what_deletes_for_good() -> None:
    """`Store.remove` and `Quarantine.remove` have one caller, whose question comes first."""
    callers = {
        place
        for module, file in MODULES.items()
        for place, code in _calls(module, file)
        if re.fullmatch(r"(.*\b_?store|quarantine|self\._aws)\.remove", code)
    }
    assert callers == {
        "craftkit_archive.disposal.run:_remove",
        "craftkit_archive.export.targets:StoreTarget.remove",  # of an export, and not of the archive's store
        "craftkit_archive.repair.quarantine:Quarantine.remove",
        "craftkit_archive.stores.bucket:BucketStore.remove",
    }
