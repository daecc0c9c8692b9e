"""The queries of exports."""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b

from craftkit_archive.catalog.connection import Connection
from craftkit_archive.catalog.rows import PAGE, ExportRow, Selection, join_renders, json_text
from craftkit_archive.records import ExportMade
from craftkit_archive.values import sorted_marks


def member_of(render_id: str) -> int:
    """Return the number that stands for a render in an export's row: eight bytes of a hash of its id.

    The chance that any two of a million renders share a number is about one in 37 million.
    """
    return int.from_bytes(blake2b(render_id.encode(), digest_size=8).digest(), sys.byteorder)


def sorted_members(members: "array[int]") -> bytes:
    """Pack the numbers of an export's renders, sorted, so that `_is_member` can search them by bisection."""
    return sorted_marks(members).tobytes()


def _is_member(members: "array[int]", render_id: str) -> bool:
    one = member_of(render_id)
    place = bisect_left(members, one)
    return place < len(members) and members[place] == one


class ExportQueries(Connection):
    """Queries that an export makes, and the rows that exports leave."""

    def held(self, project_id: str | None = None) -> Iterator[tuple[str, str]]:
        """Yield the digest and the key of every stored asset with a known digest, in the byte order of the digests."""
        selection = Selection(project_ids=(project_id,) if project_id else ())
        where, parameters = selection.where()
        with self._errors():
            # One open cursor reads one snapshot of the catalog, even if others write meanwhile.
            yield from self._connection.execute(
                f"SELECT a.sha256, a.key FROM assets AS a{join_renders(selection)}"
                f" WHERE a.stored_at IS NOT NULL AND a.sha256 IS NOT NULL{where} ORDER BY a.sha256, a.key",
                parameters,
            )

    def claimed_by(self, keys: Sequence[str]) -> dict[str, str]:
        """Map those of these asset keys that an asset has to the ids of its render."""
        sql = "SELECT key, render_id FROM assets WHERE key IN (SELECT value FROM json_each(?))"
        return {key: render_id for key, render_id in self._query(sql, (json_text(keys),))}

    def holders(self, keys: Sequence[str]) -> dict[str, str]:
        """Map asset keys to the ids of the renders that have them, if they are recorded or are Craftkit's own.

        Other keys are not found: an index for them would slow every import down.
        """
        named = [key.rpartition("/")[2].removesuffix(".pdf") for key in keys]
        sql = "SELECT asset_key, id FROM renders WHERE id IN (SELECT value FROM json_each(?))"
        found = {key: render_id for key, render_id in self._query(sql, (json_text(named),)) if key in set(keys)}
        return found | self.claimed_by(keys)

    def holds_below(self, key: str) -> bool:
        """Return whether any asset is recorded whose key has this one as a folder."""
        # A range instead of LIKE, so that the index answers it: 0 is the character after the slash.
        return bool(self._query("SELECT 1 FROM assets WHERE key > ? AND key < ? LIMIT 1", (f"{key}/", f"{key}0")))

    def oddities(self, render_ids: Sequence[str] | None = None) -> dict[str, str]:
        """Map render ids to notes on what was odd about their PDFs on arrival; renders without a note are left out.

        Args:
            render_ids: The renders to look up; if not given, any one render with a note is returned.
        """
        if render_ids is None:
            rows = self._query("SELECT render_id, odd FROM assets WHERE odd IS NOT NULL LIMIT 1")
        else:
            rows = self._query(
                "SELECT render_id, odd FROM assets"
                " WHERE odd IS NOT NULL AND render_id IN (SELECT value FROM json_each(?))",
                (json_text(render_ids),),
            )
        return {render_id: odd for render_id, odd in rows}

    def export_rows(self, selection: Selection, *, after: str = "") -> Iterator[ExportRow]:
        """Yield renders in the order of their ids, whether their assets are stored or not; those after one of them."""
        yield from self._pages(
            "SELECT r.id, r.project_id, p.slug, p.name, r.template_id, r.status, r.created_at, r.completed_at,"
            " COALESCE(a.key, r.asset_key, ''), a.size_bytes, a.sha256, a.stored_at IS NOT NULL, a.odd, k.state,"
            " k.reason, a.render_id IS NULL AND EXISTS (SELECT 1 FROM tombstones AS t WHERE t.render_id = r.id)"
            " FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id LEFT JOIN projects AS p"
            " ON p.id = r.project_id LEFT JOIN acknowledgements AS k ON k.render_id = r.id"
            " WHERE r.id > ?{where} ORDER BY r.id LIMIT ?",
            selection,
            ExportRow,
            begin=after,
        )

    def add_export(self, made: ExportMade, members: "array[int]", *, replaces: bool) -> None:
        """Record an export.

        Args:
            made: Its target, time and seal.
            members: `member_of` each of its renders, in any order.
            replaces: Whether it overwrote what earlier exports had written to the same target.
        """
        if replaces:
            self._query("UPDATE exports SET members = NULL WHERE target = ?", (made.target,))
        self._query(
            "INSERT INTO exports (target, made_at, pdfs, size_bytes, seal, members) VALUES (?, ?, ?, ?, ?, ?)",
            (made.target, made.made_at, made.pdfs, made.size_bytes, made.seal, sorted_members(members)),
        )

    def exports_holding(self, run_id: int | None = None) -> Iterator[ExportMade]:
        """Yield the recorded exports that contain renders disposed by a run, or by any run if none is given."""
        for row_id, *facts in self._query(
            "SELECT id, target, made_at, pdfs, size_bytes, seal FROM exports WHERE members IS NOT NULL ORDER BY id"
        ):
            [(blob,)] = self._query("SELECT members FROM exports WHERE id = ?", (row_id,))
            members = array("Q", blob)
            disposed, after = 0, 0
            while page := self._query(
                "SELECT number, render_id FROM tombstones WHERE (?1 IS NULL OR run_id = ?1) AND number > ?2"
                " ORDER BY number LIMIT ?3",
                (run_id, after, PAGE),
            ):
                disposed += sum(_is_member(members, render_id) for _, render_id in page)
                after = page[-1][0]
            if disposed:
                target, made_at, pdfs, size_bytes, seal = facts
                yield ExportMade(target, made_at, pdfs, size_bytes, seal, disposed)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let this thread read one snapshot of the catalog, as of the first query inside, even if others write."""
        with self._errors():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def unknown_ids(self, selection: Selection) -> Iterator[str]:
        """Yield those ids that a selection names and no render has."""
        for part in selection.parts():
            ids = part.render_ids or ()
            known = self._query(
                "SELECT id FROM renders WHERE id IN (SELECT value FROM json_each(?))", (json_text(ids),)
            )
            found = {row[0] for row in known}
            yield from (render_id for render_id in ids if render_id not in found)
