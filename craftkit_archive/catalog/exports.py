"""The queries of an export."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from craftkit_archive.catalog.connection import Connection
from craftkit_archive.catalog.rows import ExportRow, Selection, join_renders, json_text


class ExportQueries(Connection):
    """What an export reads."""

    def held(self, project_id: str | None = None) -> Iterator[tuple[str, str]]:
        """Yield digest and key of every stored asset whose digest is known, in the order of their bytes."""
        selection = Selection(project_ids=(project_id,) if project_id else ())
        where, parameters = selection.where()
        with self._errors():
            # One open cursor yields one state of the catalog, even if others write meanwhile.
            yield from self._connection.execute(
                f"SELECT a.sha256, a.key FROM assets AS a{join_renders(selection)}"
                f" WHERE a.stored_at IS NOT NULL AND a.sha256 IS NOT NULL{where} ORDER BY a.sha256, a.key",
                parameters,
            )

    def claimed_by(self, keys: Sequence[str]) -> dict[str, str]:
        """Map those asset keys that are taken to the ids of the renders that have them."""
        sql = "SELECT key, render_id FROM assets WHERE key IN (SELECT value FROM json_each(?))"
        return {key: render_id for key, render_id in self._query(sql, (json_text(keys),))}

    def holders(self, keys: Sequence[str]) -> dict[str, str]:
        """Map asset keys to the ids of the renders that have them, if they are stored or lie where Craftkit puts them.

        Others are not found: an index for them would slow every import down.
        """
        named = [key.rpartition("/")[2].removesuffix(".pdf") for key in keys]
        sql = "SELECT asset_key, id FROM renders WHERE id IN (SELECT value FROM json_each(?))"
        found = {key: render_id for key, render_id in self._query(sql, (json_text(named),)) if key in set(keys)}
        return found | self.claimed_by(keys)

    def holds_below(self, key: str) -> bool:
        """Say whether any asset is recorded whose key has this one as a folder."""
        # 0 is the character after the slash.
        return bool(self._query("SELECT 1 FROM assets WHERE key > ? AND key < ? LIMIT 1", (f"{key}/", f"{key}0")))

    def oddities(self, render_ids: Sequence[str] | None = None) -> dict[str, str]:
        """Map render ids to what was odd about their PDFs on arrival, for those of which anything was.

        Args:
            render_ids: Of which renders; one that has any if not given.
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

    def export_rows(self, selection: Selection) -> Iterator[ExportRow]:
        """Yield renders, whether their assets are stored or not, in the order of their ids."""
        yield from self._pages(
            "SELECT r.id, r.project_id, p.slug, p.name, r.template_id, r.status, r.created_at, r.completed_at,"
            " COALESCE(a.key, r.asset_key, ''), a.size_bytes, a.sha256, a.stored_at IS NOT NULL, a.odd, k.state,"
            " k.reason FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id LEFT JOIN projects AS p"
            " ON p.id = r.project_id LEFT JOIN acknowledgements AS k ON k.render_id = r.id"
            " WHERE r.id > ?{where} ORDER BY r.id LIMIT ?",
            selection,
            ExportRow,
        )

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read the catalog, in this thread, as of the first query inside, even if others write meanwhile."""
        with self._errors():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def unknown_ids(self, selection: Selection) -> Iterator[str]:
        """Yield those of the selection's own ids that no render has."""
        for part in selection.parts():
            ids = part.render_ids or ()
            known = self._query(
                "SELECT id FROM renders WHERE id IN (SELECT value FROM json_each(?))", (json_text(ids),)
            )
            found = {row[0] for row in known}
            yield from (render_id for render_id in ids if render_id not in found)
