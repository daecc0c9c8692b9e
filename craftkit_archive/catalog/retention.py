"""The queries of records management: retention rules, and legal holds."""

from collections.abc import Iterator, Sequence

from craftkit_archive.catalog.connection import Connection
from craftkit_archive.catalog.rows import PAGE, json_text
from craftkit_archive.records import Hold, RetentionRule

# Whether a hold covers a render: by its id, or by everything that its rule names.
_COVERS = (
    "h.released_at IS NULL AND CASE WHEN h.by_ids"
    " THEN EXISTS (SELECT 1 FROM hold_ids AS i WHERE i.hold = h.name AND i.render_id = r.id)"
    " ELSE (h.project_id IS NULL OR h.project_id = r.project_id)"
    " AND (h.template_id IS NULL OR h.template_id = r.template_id)"
    " AND (h.since IS NULL OR r.created_at >= h.since) AND (h.before IS NULL OR r.created_at < h.before) END"
)


class RetentionQueries(Connection):
    """Retention rules and legal holds."""

    def put_retention(self, rule: RetentionRule) -> None:
        """Set a rule; one for the same renders is replaced."""
        self._query(
            "INSERT OR REPLACE INTO retention (scope, name, keep, counted_from, set_at) VALUES (?, ?, ?, ?, ?)",
            (rule.scope, rule.name, rule.keep, rule.counted_from, rule.set_at),
        )

    def retention_rules(self) -> list[RetentionRule]:
        """Return every rule, those of projects and templates by name, the default last."""
        rows = self._query(
            "SELECT scope, name, keep, counted_from, set_at FROM retention ORDER BY scope = 'default', scope, name"
        )
        return [RetentionRule(*row) for row in rows]

    def remove_retention(self, scope: str, name: str) -> bool:
        """Remove a rule, and say whether there was one."""
        return bool(self._query("DELETE FROM retention WHERE scope = ? AND name = ? RETURNING 1", (scope, name)))

    def kept_renders(self) -> Iterator[list[tuple[str, str, str | None, str, str | None, int]]]:
        """Yield pages of the renders whose PDFs are stored: id, project, template, created, completed, size."""
        after = ""
        while page := self._query(
            "SELECT r.id, r.project_id, r.template_id, r.created_at, r.completed_at, COALESCE(a.size_bytes, 0)"
            " FROM renders AS r JOIN assets AS a ON a.render_id = r.id"
            " WHERE r.id > ? AND a.stored_at IS NOT NULL ORDER BY r.id LIMIT ?",
            (after, PAGE),
        ):
            yield page
            after = page[-1][0]

    def put_hold(self, hold: Hold, render_ids: Sequence[str] | None) -> None:
        """Place a hold, by rule or on these ids, which need not be known yet."""
        self._query(
            "INSERT INTO holds (name, by_ids, project_id, template_id, since, before, placed_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                hold.name,
                render_ids is not None,
                hold.project_id,
                hold.template_id,
                hold.since,
                hold.before,
                hold.placed_at,
            ),
        )
        self._write(
            "INSERT OR IGNORE INTO hold_ids (hold, render_id) VALUES (?, ?)", ((hold.name, i) for i in render_ids or ())
        )

    def holds(self) -> list[Hold]:
        """Return every hold that was ever placed, with how many renders it covers now, by name."""
        rows = self._query(
            "SELECT h.name, h.project_id, h.template_id, h.since, h.before, h.placed_at, h.released_at,"
            " (SELECT COUNT(*) FROM hold_ids AS i WHERE i.hold = h.name),"
            f" (SELECT COUNT(*) FROM renders AS r WHERE {_COVERS}) FROM holds AS h ORDER BY h.name"
        )
        return [Hold(*row) for row in rows]

    def release_hold(self, name: str, released_at: str) -> bool:
        """End a hold, and say whether there was one in force. Its name is never used again."""
        sql = "UPDATE holds SET released_at = ? WHERE name = ? AND released_at IS NULL RETURNING 1"
        return bool(self._query(sql, (released_at, name)))

    def held_by(self, render_ids: Sequence[str]) -> dict[str, list[str]]:
        """Map those of these renders that are held to the names of the holds.

        An id that a hold names is held even if no render has it.
        """
        found: dict[str, list[str]] = {}
        for render_id, name in self._query(
            "SELECT r.id, h.name FROM json_each(?1) AS j JOIN renders AS r ON r.id = j.value"
            f" JOIN holds AS h ON {_COVERS}"
            " UNION SELECT i.render_id, h.name FROM json_each(?1) AS j JOIN hold_ids AS i ON i.render_id = j.value"
            " JOIN holds AS h ON h.name = i.hold AND h.released_at IS NULL ORDER BY 1, 2",
            (json_text(render_ids),),
        ):
            found.setdefault(render_id, []).append(name)
        return found
