"""The queries of imports, and of the keys and projects that they bring."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from craftkit_archive.catalog.counting import TotalsQueries
from craftkit_archive.catalog.rows import Expectation, json_text
from craftkit_archive.records import KeyInfo, Kind

COLUMNS: dict[Kind, tuple[str, ...]] = {
    "projects": ("id", "name", "slug", "created_at", "updated_at", "deleted_at", "extra"),
    "keys": ("id", "project_id", "name", "prefix", "key_hash", "created_at", "revoked_at", "extra"),
    "renders": (
        "id",
        "project_id",
        "template_id",
        "status",
        "error_message",
        "asset_key",
        "created_at",
        "completed_at",
        "duration_ms",
        "extra",
    ),
}
# At most this many projects are compared with a mistyped name.
_ALIKE = 5000
_TABLES: dict[Kind, str] = {"projects": "projects", "keys": "api_keys", "renders": "renders"}


class ImportQueries(TotalsQueries):
    """Queries on projects, keys and renders as records."""

    def known(self, kind: Kind, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Return the rows of those of these ids that exist, by id, with values in the order of `COLUMNS`."""
        rows = self._query(
            f"SELECT {', '.join(COLUMNS[kind])} FROM {_TABLES[kind]} WHERE id IN (SELECT value FROM json_each(?))",
            (json_text(ids),),
        )
        return {row[0]: row for row in rows}

    def last_id(self, kind: Kind) -> str:
        """Return the greatest id of a kind, or an empty string.

        An import in the order of ids sees by it that a batch is new, without looking each id up.
        """
        return self._query(f"SELECT COALESCE(MAX(id), '') FROM {_TABLES[kind]}")[0][0]  # type: ignore[no-any-return]

    def put(self, kind: Kind, rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows, given in the order of `COLUMNS`, or replace those with the same id."""
        if kind == "renders":
            self._put_renders({row[0]: row for row in rows})
            return
        columns = COLUMNS[kind]
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
        self._write(f"{_inserting(_TABLES[kind], columns)} ON CONFLICT (id) DO UPDATE SET {changes}", rows)

    @contextmanager
    def filling(self, kind: Kind) -> Iterator[None]:
        """Drop the index for the server's list while an empty table of renders is filled, and create it at the end.

        Created at the end, from sorted rows, the index costs a first import a tenth of its time. Kept up to date, it
        costs far more if the times are not in the order of the ids, because each row then changes another page: with
        a million such rows, inserting took 114 s instead of 34 s. If the index cannot be created at the end, the next
        command that writes does it (see `Archive.lock`).
        """
        if kind != "renders" or self.has_renders():
            yield
            return
        self._query("DROP INDEX IF EXISTS idx_renders_newest")
        try:
            yield
        finally:
            self.index_renders()

    def _put_renders(self, rows: dict[str, Sequence[Any]]) -> None:
        columns = COLUMNS["renders"]
        with self.transaction():
            known = self._known_ids("renders", "id", rows)
            with self._adding_renders({render_id: (row[1], row[3]) for render_id, row in rows.items()}, known):
                # No upsert: it could fire the triggers of updates (see `totals.INSERTED`).
                self._write(_inserting("renders", columns), (row for row in rows.values() if row[0] not in known))
                changes = ", ".join(f"{name} = ?{place}" for place, name in enumerate(columns[1:], 2))
                changed = (row for row in rows.values() if row[0] in known)
                self._write(f"UPDATE renders SET {changes} WHERE id = ?1", changed)

    def key_owners(self, hashes: Sequence[str]) -> dict[str, str]:
        """Map those of these hashes that a key has to the ids of the keys."""
        sql = "SELECT key_hash, id FROM api_keys WHERE key_hash IN (SELECT value FROM json_each(?))"
        return {key_hash: key_id for key_hash, key_id in self._query(sql, (json_text(hashes),))}

    def find_projects(self, name: str) -> list[str]:
        """Return the id of the project with this id; if there is none, the ids of all projects with this slug."""
        by_id = self._query(
            "SELECT id FROM projects WHERE id = ?1 UNION"
            " SELECT ?1 WHERE EXISTS (SELECT 1 FROM renders WHERE project_id = ?1)",
            (name,),
        )
        return [row[0] for row in by_id or self._query("SELECT id FROM projects WHERE slug = ?", (name,))]

    def shared_slugs(self) -> list[tuple[str, list[str]]]:
        """Return each slug that several projects share, with the ids of these projects."""
        rows = self._query(
            "SELECT slug, json_group_array(id) FROM (SELECT slug, id FROM projects ORDER BY slug, id)"
            " WHERE slug <> '' GROUP BY slug HAVING COUNT(*) > 1 ORDER BY slug"
        )
        return [(slug, msgspec.json.decode(ids)) for slug, ids in rows]

    def without_project(self, kind: Kind) -> list[tuple[str, int]]:
        """Return `(project id, count)` for each missing project that records of a kind name."""
        # The recursion jumps from one project to the next in the index: a million renders of ten projects take ten
        # steps, where DISTINCT would scan them all.
        return self._query(  # type: ignore[return-value,unused-ignore]
            f"""
            WITH RECURSIVE named (id) AS (
                SELECT MIN(project_id) FROM {_TABLES[kind]}
                UNION ALL
                SELECT (SELECT MIN(project_id) FROM {_TABLES[kind]} WHERE project_id > named.id) FROM named
                WHERE named.id IS NOT NULL
            )
            SELECT n.id, (SELECT COUNT(*) FROM {_TABLES[kind]} WHERE project_id = n.id) FROM named AS n
            WHERE n.id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM projects AS p WHERE p.id = n.id) ORDER BY n.id
            """
        )

    def has_renders(self) -> bool:
        """Return whether the catalog has any renders."""
        return bool(self._query("SELECT EXISTS (SELECT 1 FROM renders)")[0][0])

    def project_slugs(self, limit: int) -> list[str]:
        """Return slugs of projects, or the ids of those without one, for a person who mistyped one."""
        rows = self._query("SELECT COALESCE(slug, id) FROM projects ORDER BY 1 LIMIT ?", (limit,))
        return [row[0] for row in rows]

    def projects_like(self, name: str) -> list[str]:
        """Return slugs (or ids) of projects whose slug or name resembles this one, the closest first."""
        from difflib import get_close_matches

        # Ids are not compared where there is a slug: those created on one day all resemble each other.
        rows = self._query("SELECT COALESCE(slug, id), name FROM projects LIMIT ?", (_ALIKE,))
        known: dict[str, str] = {}
        for shown, name_of in rows:
            for spelling in filter(None, (shown, name_of)):
                known.setdefault(spelling.casefold(), shown)
        # Long texts take long to compare, and nobody mistypes one.
        alike = get_close_matches(name.casefold()[:100], [one for one in known if len(one) <= 100])
        return list(dict.fromkeys(known[one] for one in alike))

    def list_keys(self, project_ids: Sequence[str]) -> list[KeyInfo]:
        """Return the keys of these projects, or of all if none is given; never their hashes."""
        rows = self._query(
            "SELECT k.id, k.project_id, k.name, k.prefix, k.created_at, k.revoked_at, p.slug FROM api_keys AS k"
            " LEFT JOIN projects AS p ON p.id = k.project_id"
            " WHERE ?1 = '[]' OR k.project_id IN (SELECT value FROM json_each(?1))"
            " ORDER BY k.project_id, k.created_at, k.id",
            (json_text(project_ids),),
        )
        return [
            KeyInfo(
                id=i,
                project_id=p,
                name=name,
                prefix=prefix,
                created_at=created,
                revoked_at=revoked,
                project_slug=slug,
            )
            for i, p, name, prefix, created, revoked, slug in rows
        ]

    def revoke_key(self, key_id: str, revoked_at: str) -> str:
        """Revoke a key, and return the time at which it was revoked; an earlier revocation keeps its time."""
        sql = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ? RETURNING revoked_at"
        return str(self._query(sql, (revoked_at, key_id))[0][0])

    def accepts_keys(self, project_id: str) -> bool:
        """Return whether a project exists and is not deleted; the server refuses the keys of others."""
        return bool(self._query("SELECT 1 FROM projects WHERE id = ? AND deleted_at IS NULL", (project_id,)))

    def expectations(self, render_ids: Sequence[str]) -> list[Expectation]:
        """Return what is recorded about the assets of these renders, whether stored or only declared."""
        rows = self._query(
            "SELECT render_id, key, size_bytes, sha256, stored_at IS NOT NULL FROM assets"
            " WHERE render_id IN (SELECT value FROM json_each(?))",
            (json_text(render_ids),),
        )
        return [Expectation(*row) for row in rows]

    def expect(self, rows: Iterable[Expectation]) -> None:
        """Record the declared sizes and digests of assets that are not stored yet; stored assets do not change."""
        given = {row.render_id: row[:4] for row in rows}
        with self.transaction():
            known = self._known_ids("assets", "render_id", given)
            # An asset that is not stored changes no state, so there are no totals to update. No upsert, which could
            # fire the triggers of updates.
            with self._keeping_totals([]):
                self._write(
                    "INSERT INTO assets (render_id, key, size_bytes, sha256, digest_source)"
                    " VALUES (?1, ?2, ?3, ?4, CASE WHEN ?4 IS NOT NULL THEN 'declared' END)",
                    (row for row in given.values() if row[0] not in known),
                )
                self._write(
                    "UPDATE assets SET key = ?2, size_bytes = ?3, sha256 = ?4,"
                    " digest_source = CASE WHEN ?4 IS NOT NULL THEN 'declared' END"
                    " WHERE render_id = ?1 AND stored_at IS NULL",
                    (row for row in given.values() if row[0] in known),
                )


def _inserting(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
