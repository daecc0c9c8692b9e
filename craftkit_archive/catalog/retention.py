"""The queries of records management: retention rules and legal holds."""

from collections.abc import Iterable, Iterator, Sequence

from craftkit_archive.catalog.connection import Connection
from craftkit_archive.catalog.rows import PAGE, KeptRender, json_text
from craftkit_archive.proof.events import Event
from craftkit_archive.records import Hold, RetentionRule

_KEPT = (
    "SELECT r.id, r.project_id, r.template_id, r.created_at, r.completed_at, COALESCE(a.size_bytes, 0)"
    " FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id"
)
# The events whose effect must survive the loss or the replacement of the catalog.
REPLAYED = frozenset({"hold place", "hold keep", "hold release", "retention set", "retention remove"})
# Whether a hold covers a render: by its id, or by matching every term of its rule. A missing value matches any term,
# because it is better to keep one render too many than to delete one too many.
_COVERS = (
    "h.released_at IS NULL AND (EXISTS (SELECT 1 FROM hold_ids AS i WHERE i.hold = h.name AND i.render_id = r.id)"
    " OR NOT h.by_ids AND (h.project_id IS NULL OR h.project_id = r.project_id)"
    " AND (h.template_id IS NULL OR COALESCE(r.template_id, h.template_id) = h.template_id)"
    " AND (h.since IS NULL OR COALESCE(r.created_at, h.since) >= h.since)"
    " AND (h.before IS NULL OR r.created_at IS NULL OR r.created_at < h.before))"
)


class RetentionQueries(Connection):
    """Queries on retention rules and legal holds."""

    def put_retention(self, rule: RetentionRule) -> None:
        """Set a rule, replacing one for the same scope and name."""
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
        """Remove a rule, and return whether there was one."""
        return bool(self._query("DELETE FROM retention WHERE scope = ? AND name = ? RETURNING 1", (scope, name)))

    def kept_renders(self) -> Iterator[list[KeptRender]]:
        """Yield pages of the renders whose PDFs are stored, in the order of ids."""
        after = ""
        while page := self._query(
            f"{_KEPT} WHERE r.id > ? AND a.stored_at IS NOT NULL ORDER BY r.id LIMIT ?", (after, PAGE)
        ):
            yield [KeptRender(*row) for row in page]
            after = page[-1][0]

    def renders_to_dispose(self, render_ids: Sequence[str]) -> list[KeptRender]:
        """Return those of these renders that exist, stored or not, in the order of ids."""
        sql = f"{_KEPT} WHERE r.id IN (SELECT value FROM json_each(?)) ORDER BY r.id"
        return [KeptRender(*row) for row in self._query(sql, (json_text(render_ids),))]

    def put_hold(self, hold: Hold, render_ids: Sequence[str] | None) -> None:
        """Place a hold by rule, or on these render ids, which need not exist yet."""
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
        self.add_to_hold(hold.name, render_ids or ())

    def add_to_hold(self, name: str, render_ids: Iterable[str]) -> None:
        """Add render ids to a hold."""
        self._write("INSERT OR IGNORE INTO hold_ids (hold, render_id) VALUES (?, ?)", ((name, i) for i in render_ids))

    def replay(self, event: Event) -> None:
        """Apply an event about a hold or a retention rule to a catalog that is older than the event."""
        said = event.details
        name = str(said.get("name", ""))
        match event.what:
            case "hold place" | "hold keep":
                project, template, since, until = map(said.get, ("project", "template", "since", "until"))
                ids = said.get("renders")
                if any(hold.name == name for hold in self.hold_terms()):
                    self.add_to_hold(name, ids or ())
                elif ids is not None or project or template or since or until:
                    self.put_hold(Hold(name, project, template, since, until, event.time), ids)
            case "hold release":
                self.release_hold(name, event.time)
            case "retention set":
                scope = str(said.get("scope"))
                self.put_retention(
                    RetentionRule(scope, name, str(said.get("keep")), str(said.get("counted_from")), event.time)
                )
            case "retention remove":
                self.remove_retention(str(said.get("scope")), name)

    def holds(self) -> list[Hold]:
        """Return every hold that was ever placed, in the order of names, with the number of renders it covers now."""
        rows = self._query(
            "SELECT h.name, h.project_id, h.template_id, h.since, h.before, h.placed_at, h.released_at,"
            " (SELECT COUNT(*) FROM hold_ids AS i WHERE i.hold = h.name),"
            f" (SELECT COUNT(*) FROM renders AS r WHERE {_COVERS}) FROM holds AS h ORDER BY h.name"
        )
        return [Hold(*row) for row in rows]

    def hold_terms(self) -> list[Hold]:
        """Return every hold in the order of names, without counting the renders it covers."""
        sql = "SELECT name, project_id, template_id, since, before, placed_at, released_at FROM holds ORDER BY name"
        return [Hold(*row) for row in self._query(sql)]

    def count_held(self) -> int:
        """Count the stored renders that are under at least one hold in force."""
        sql = (
            "SELECT COUNT(*) FROM renders AS r JOIN assets AS a ON a.render_id = r.id WHERE a.stored_at IS NOT NULL"
            f" AND EXISTS (SELECT 1 FROM holds AS h WHERE {_COVERS})"
        )
        return int(self._query(sql)[0][0])

    def release_hold(self, name: str, released_at: str) -> bool:
        """End a hold, and return whether it was in force. Its name cannot be used again."""
        sql = "UPDATE holds SET released_at = ? WHERE name = ? AND released_at IS NULL RETURNING 1"
        return bool(self._query(sql, (released_at, name)))

    def held_by(self, render_ids: Sequence[str]) -> dict[str, list[str]]:
        """Map those of these render ids that are held to the names of the holds.

        An id that a hold names is held even if no such render exists. For a render that is missing from the catalog,
        as after a rebuild from too few files, nothing shows which rules cover it, so every rule holds it; if it has a
        tombstone, only the rules that do not name another project or another time.
        """
        found: dict[str, list[str]] = {}
        for render_id, name in self._query(
            "SELECT r.id, h.name FROM json_each(?1) AS j JOIN renders AS r ON r.id = j.value"
            f" JOIN holds AS h ON {_COVERS}"
            " UNION SELECT j.value, h.name FROM json_each(?1) AS j"
            " JOIN holds AS h ON h.released_at IS NULL AND NOT h.by_ids"
            " LEFT JOIN tombstones AS t ON t.render_id = j.value"
            " WHERE NOT EXISTS (SELECT 1 FROM renders AS r WHERE r.id = j.value)"
            " AND (h.project_id IS NULL OR h.project_id = COALESCE(NULLIF(t.project_id, ''), h.project_id))"
            " AND (h.since IS NULL OR COALESCE(t.created_at, h.since) >= h.since)"
            " AND (h.before IS NULL OR t.created_at IS NULL OR t.created_at < h.before)"
            " UNION SELECT i.render_id, h.name FROM json_each(?1) AS j JOIN hold_ids AS i ON i.render_id = j.value"
            " JOIN holds AS h ON h.name = i.hold AND h.released_at IS NULL ORDER BY 1, 2",
            (json_text(render_ids),),
        ):
            found.setdefault(render_id, []).append(name)
        return found

    def keep_held(self, render_ids: Sequence[str]) -> dict[str, list[str]]:
        """Hold by id the renders that a rule holds now, before their rows change; return their ids by hold."""
        kept: dict[str, list[str]] = {}
        for render_id, names in self.held_by(render_ids).items():
            for name in names:
                kept.setdefault(name, []).append(render_id)
        for name, held in kept.items():
            self.add_to_hold(name, held)
        return kept
