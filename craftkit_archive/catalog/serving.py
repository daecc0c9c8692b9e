"""The queries of the server."""

from typing import Any

from craftkit_archive.catalog.connection import Connection
from craftkit_archive.catalog.rows import KeyRow, Listing, ServedRender

_SERVED = (
    "r.id, r.status, r.error_message, r.asset_key, r.created_at, r.completed_at, r.duration_ms, a.key, a.size_bytes,"
    " a.sha256, a.render_id IS NULL AND EXISTS (SELECT 1 FROM tombstones AS t WHERE t.render_id = r.id)"
    " FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id AND a.stored_at IS NOT NULL"
)


# Sorting this many takes a millisecond or two.
_FEW = 1000


class ServeQueries(Connection):
    """The queries that the server makes for each request."""

    def find_key(self, key_hash: str) -> KeyRow | None:
        """Look a key up by its hash."""
        found = self._query(
            "SELECT k.id, k.project_id, k.revoked_at IS NOT NULL, p.id IS NULL OR p.deleted_at IS NOT NULL, p.name"
            " FROM api_keys AS k LEFT JOIN projects AS p ON p.id = k.project_id WHERE k.key_hash = ?",
            (key_hash,),
        )
        return KeyRow(*found[0]) if found else None

    def find_render(self, project_id: str, render_id: str) -> ServedRender | None:
        """Look a render up within one project; a render of another project is not found."""
        found = self._query(
            f"SELECT {_SERVED} WHERE r.id = ? AND r.project_id = ?",
            (render_id, project_id),
        )
        return ServedRender(*found[0]) if found else None

    def list_renders(self, project_id: str, listing: Listing) -> list[ServedRender]:
        """Return renders of a project, newest first; `limit` and one more, if there are more."""
        made, after = "COALESCE(r.created_at, '')", listing.after
        begins, texts = _begins(listing.search or "")
        # A search with few matches looks them up by id and sorts them. With many matches, a page fills soon while the
        # index on (project, time, id) is read from the newest on. A unary plus hides a column from the other index, so
        # that SQLite takes the one that is meant.
        few = bool(listing.search) and self._are_few(begins, texts)
        project, key = ("+r.project_id", "r.id") if few else ("r.project_id", "+r.id")
        terms: list[tuple[str, tuple[Any, ...] | None]] = [
            # The first condition follows from the second, and is there because SQLite cannot seek in an index on an
            # expression by comparing rows.
            (f" AND {made} <= ? AND ({made}, r.id) < (?, ?)", (after[0], *after) if after else None),
            (f" AND {made} >= ?", (listing.since,) if listing.since else None),
            (f" AND {made} < ?", (listing.before,) if listing.before else None),
            (" AND r.status = ?", (listing.status,) if listing.status else None),
            (f" AND ({begins.format(id=key)})", tuple(texts) if listing.search else None),
        ]
        given = [(sql, values) for sql, values in terms if values is not None]
        rows = self._query(
            f"SELECT {_SERVED} WHERE {project} = ?{''.join(sql for sql, _ in given)}"
            f" ORDER BY {made} DESC, r.id DESC LIMIT ?",
            (project_id, *(value for _, values in given for value in values), listing.limit + 1),
        )
        return [ServedRender(*row) for row in rows]

    def _are_few(self, begins: str, texts: list[str]) -> bool:
        sql = f"SELECT COUNT(*) FROM (SELECT 1 FROM renders WHERE {begins.format(id='id')} LIMIT ?)"
        return int(self._query(sql, (*texts, _FEW + 1))[0][0]) <= _FEW


def _begins(search: str) -> tuple[str, list[str]]:
    """Return an SQL condition and its values: an id begins with a text, as given, in lower case, or in upper case."""
    spellings = list(dict.fromkeys((search, search.lower(), search.upper())))
    # Ranges instead of LIKE, so that an index answers it; char(1114111) is the last character of Unicode.
    terms = " OR ".join("({id} >= ? AND {id} < ? || char(1114111))" for _ in spellings)
    return terms, [text for spelling in spellings for text in (spelling, spelling)]
