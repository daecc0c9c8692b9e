"""The queries on assets: which are expected, stored or damaged, their totals and coverage."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import groupby
from math import ceil
from operator import itemgetter
from typing import Any

from craftkit_archive.catalog.ledger import LedgerQueries
from craftkit_archive.catalog.rows import (
    ELSEWHERE,
    PAGE,
    Asset,
    Choice,
    DamagedAsset,
    Expectation,
    NewAsset,
    Selection,
    Totals,
    join_renders,
    json_text,
)
from craftkit_archive.coverage import Coverage
from craftkit_archive.records import ProjectInfo
from craftkit_archive.states import Standing

# What a repair may replace. Without a recorded digest, nothing says which bytes are right.
_REPAIRABLE = "a.stored_at IS NOT NULL AND a.sha256 IS NOT NULL AND a.verdict NOT IN ('ok', 'unverified')"


# A disposed render expects no PDF, and claims no file in the store.
_ALIVE = " AND NOT EXISTS (SELECT 1 FROM tombstones AS t WHERE t.render_id = r.id)"


class AssetQueries(LedgerQueries):
    """Queries on stored and expected assets, and on the states that they are in."""

    def project_summaries(self, since: str | None = None, now: str | None = None) -> list[ProjectInfo]:
        """Count renders and PDFs by project and state, in the order of slugs.

        Args:
            since: Only bytes that were read and found good at or after this time count as covered; none do if it is
                not given.
            now: The present; checks dated later do not count.
        """
        rows = self._query(
            """
            WITH held AS (
                SELECT project_id, NULLIF(state, '') AS state, SUM(renders) AS renders, SUM(succeeded) AS succeeded,
                       SUM(stored) AS stored, SUM(stored_bytes) AS stored_bytes,
                       MIN(NULLIF(verified_at, '')) AS oldest_verified_at,
                       SUM(stored_bytes) FILTER (WHERE verified_at BETWEEN ?1 AND ?2) AS read_bytes
                FROM totals WHERE renders <> 0 GROUP BY 1, 2
            ), ids AS (SELECT id FROM projects UNION SELECT project_id FROM held)
            SELECT ids.id, p.slug, COALESCE(p.name, ids.id), p.deleted_at, state, COALESCE(renders, 0),
                   COALESCE(succeeded, 0), COALESCE(stored, 0), COALESCE(stored_bytes, 0), oldest_verified_at,
                   COALESCE(read_bytes, 0)
            FROM ids LEFT JOIN projects AS p ON p.id = ids.id LEFT JOIN held AS h ON h.project_id = ids.id
            ORDER BY p.slug, ids.id
            """,
            (since, now),
        )
        return [_project_info(list(parts)) for _, parts in groupby(rows, key=itemgetter(0))]

    def reading_days(self) -> list[tuple[str | None, int, int]]:
        """Return `(day, assets, bytes)` for each day on which assets were last read and found good.

        The day is None for assets that were never found good.
        """
        return self._query(  # type: ignore[return-value,unused-ignore]
            "SELECT CASE WHEN state = 'ok' THEN substr(verified_at, 1, 10) END AS day, SUM(stored), SUM(stored_bytes)"
            " FROM totals WHERE stored <> 0 GROUP BY day ORDER BY day"
        )

    def expected_assets(self, selection: Selection) -> Iterator[Expectation]:
        """Yield the assets of succeeded renders that are not stored yet, in the order of render ids."""
        yield from self._pages(
            "SELECT r.id, r.asset_key, a.size_bytes, a.sha256, 0"
            " FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id"
            " WHERE r.id > ? AND r.status = 'succeeded' AND r.asset_key IS NOT NULL AND a.stored_at IS NULL"
            f"{_ALIVE}{{where}} ORDER BY r.id LIMIT ?",
            selection,
            Expectation,
        )

    def count_expected(self, selection: Selection) -> int:
        """Count what `expected_assets` would yield."""
        count, _ = self._count(
            "SELECT COUNT(*), 0 FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id"
            f" WHERE r.status = 'succeeded' AND r.asset_key IS NOT NULL AND a.stored_at IS NULL{_ALIVE}{{where}}",
            selection,
        )
        return count

    def stored_assets(self, selection: Selection) -> Iterator[Asset]:
        """Yield the recorded assets in the order of render ids."""
        yield from self._pages(
            f"SELECT a.render_id, a.key, a.size_bytes, a.sha256 FROM assets AS a{join_renders(selection)}"
            " WHERE a.render_id > ? AND a.stored_at IS NOT NULL{where} ORDER BY a.render_id LIMIT ?",
            selection,
            Asset,
        )

    def count_stored(self, selection: Selection) -> tuple[int, int]:
        """Count the recorded assets and add up their bytes."""
        if selection == Selection(project_ids=selection.project_ids):
            [counted] = self._query(
                "SELECT COALESCE(SUM(stored), 0), COALESCE(SUM(stored_bytes), 0) FROM totals"
                " WHERE ?1 = '[]' OR project_id IN (SELECT value FROM json_each(?1))",
                (json_text(selection.project_ids),),
            )
            return counted[0], counted[1]
        return self._count(
            f"SELECT COUNT(*), COALESCE(SUM(a.size_bytes), 0) FROM assets AS a{join_renders(selection)}"
            " WHERE a.stored_at IS NOT NULL{where}",
            selection,
        )

    def damaged_assets(self, selection: Selection) -> Iterator[DamagedAsset]:
        """Yield the assets that a repair may replace, in the order of render ids: those whose last check failed."""
        yield from self._pages(
            "SELECT a.render_id, a.key, a.size_bytes, a.sha256, a.verdict FROM assets AS a"
            f" JOIN renders AS r ON r.id = a.render_id WHERE a.render_id > ? AND {_REPAIRABLE}{{where}}"
            " ORDER BY a.render_id LIMIT ?",
            selection,
            DamagedAsset,
        )

    def count_damaged(self, selection: Selection) -> int:
        """Count what `damaged_assets` would yield."""
        count, _ = self._count(
            f"SELECT COUNT(*), 0 FROM assets AS a JOIN renders AS r ON r.id = a.render_id WHERE {_REPAIRABLE}{{where}}",
            selection,
        )
        return count

    def choose(self, selection: Selection, choice: Choice) -> tuple[int, int]:
        """Choose the assets that `chosen_assets` yields, and return their count and bytes.

        The choice is sorted once into a temporary table, so that verdicts recorded meanwhile do not change it. An index
        that keeps it sorted would have to be updated with each verdict, for a query that runs once a night.

        First come assets that were never checked, then those whose last check failed, those dated in the future, and
        the rest by age. A random share is in random order.
        """
        where, values = choice.where()
        order = "rank, verified_at, render_id"
        if choice.share is not None:
            order = "drawn(render_id)"
            seed = choice.seed
            self._connection.create_function(
                "drawn", 1, lambda render_id: sha256(f"{seed} {render_id}".encode()).digest(), deterministic=True
            )
        for table in ("found", "chosen"):
            self._query(f"DROP TABLE IF EXISTS temp.{table}")
        self._query("CREATE TEMP TABLE found (render_id, rank, verified_at)")
        for part in selection.parts():
            selected, parameters = part.where()
            self._query(
                "INSERT INTO temp.found SELECT a.render_id, CASE WHEN a.verified_at IS NULL THEN 0"
                " WHEN a.verdict <> 'ok' THEN 1 WHEN a.verified_at > ? THEN 2 ELSE 3 END, a.verified_at"
                f" FROM assets AS a{join_renders(selection)} WHERE a.stored_at IS NOT NULL{where}{selected}",
                (choice.now, *values, *parameters),
            )
        found = self._query("SELECT COUNT(*) FROM temp.found")[0][0]
        limit = found if choice.share is None else ceil(found * choice.share)
        self._query("CREATE TEMP TABLE chosen (position INTEGER PRIMARY KEY, render_id)")
        self._query(
            f"INSERT INTO temp.chosen (render_id) SELECT render_id FROM temp.found ORDER BY {order} LIMIT ?", (limit,)
        )
        self._query("DROP TABLE temp.found")
        rows = self._query(
            "SELECT COUNT(*), COALESCE(SUM(size_bytes), 0) FROM temp.chosen JOIN assets USING (render_id)"
        )
        return int(rows[0][0]), int(rows[0][1])

    def chosen_assets(self) -> Iterator[Asset]:
        """Yield the assets that `choose` selected, in its order."""
        after = 0
        while page := self._query(
            "SELECT c.position, a.render_id, a.key, a.size_bytes, a.sha256 FROM temp.chosen AS c"
            " JOIN assets AS a ON a.render_id = c.render_id WHERE c.position > ? ORDER BY c.position LIMIT ?",
            (after, PAGE),
        ):
            after = page[-1][0]
            yield from (Asset(*row[1:]) for row in page)

    def coverage(self, since: str, now: str, days: int) -> Coverage:
        """Add up the bytes that were read and found good since a time, and those that are due.

        Checks dated after `now` do not count.
        """
        rows = self._query(
            """
            SELECT COALESCE(SUM(stored), 0), COALESCE(SUM(stored_bytes), 0),
                   COALESCE(SUM(stored) FILTER (WHERE recent AND state = 'ok'), 0),
                   COALESCE(SUM(stored_bytes) FILTER (WHERE recent AND state = 'ok'), 0),
                   COALESCE(SUM(stored) FILTER (WHERE NOT recent), 0),
                   COALESCE(SUM(stored_bytes) FILTER (WHERE NOT recent), 0)
            FROM (SELECT state, stored, stored_bytes, verified_at BETWEEN ? AND ? AS recent FROM totals)
            """,
            (since, now),
        )
        return Coverage(days, *rows[0])

    def standing(self) -> Standing:
        """Count all renders by state, and the files that no render claims."""
        counts = self._query("SELECT NULLIF(state, ''), SUM(renders), SUM(stored) FROM totals GROUP BY 1")
        return _standing(counts, self.count_extra())

    def stored_standing(self) -> Standing:
        """Count the stored PDFs by state, and the files that no render claims."""
        counts = self._query("SELECT state, SUM(stored), SUM(stored) FROM totals WHERE stored <> 0 GROUP BY state")
        return _standing(counts, self.count_extra())

    def count_extra(self) -> int:
        """Count the files that no render claims, as the last verification of everything found them."""
        return int(self._query("SELECT COUNT(*) FROM extra_files")[0][0])

    def last_verified(self) -> str | None:
        """Return the time of the latest check of a stored PDF; None before the first."""
        return self._query("SELECT MAX(verified_at) FROM assets WHERE verdict IS NOT NULL")[0][0]  # type: ignore[no-any-return]

    def known_extra(self, keys: Sequence[str]) -> set[str]:
        """Return those of these keys that the last verification of everything found as extra files."""
        sql = "SELECT key FROM extra_files WHERE key IN (SELECT value FROM json_each(?))"
        return {key for (key,) in self._query(sql, (json_text(keys),))}

    def unclaimed(self, keys: Sequence[str]) -> list[str]:
        """Return those of these asset keys that no render claims, in their order; a disposed render claims none."""
        left = dict.fromkeys(keys)
        named = [key.rpartition("/")[2].removesuffix(".pdf") for key in keys]
        # Three questions, each with an index to answer it: what is stored; what has the key that Craftkit gives; and
        # the few other keys, in `idx_renders_elsewhere`.
        for sql, values in (
            ("SELECT key FROM assets WHERE key IN (SELECT value FROM json_each(?))", keys),
            (f"SELECT r.asset_key FROM renders AS r WHERE r.id IN (SELECT value FROM json_each(?)){_ALIVE}", named),
            (
                "SELECT r.asset_key FROM renders AS r WHERE r.asset_key IN (SELECT value FROM json_each(?))"
                f" AND r.{ELSEWHERE}{_ALIVE}",
                None,
            ),
        ):
            wanted = list(left) if values is None else values
            for (key,) in self._query(sql, (json_text(wanted),)) if left else ():
                left.pop(key, None)
        return list(left)

    def unrecorded(self, keys: Sequence[str]) -> list[str]:
        """Return those of these asset keys that no stored asset has, in their order."""
        sql = "SELECT key FROM assets WHERE stored_at IS NOT NULL AND key IN (SELECT value FROM json_each(?))"
        stored = {key for (key,) in self._query(sql, (json_text(keys),))}
        return [key for key in keys if key not in stored]

    def expecting(self, keys: Sequence[str]) -> dict[str, str]:
        """Map those of these keys that a succeeded render expects and has not stored to the ids of their renders."""
        sql = (
            "SELECT r.asset_key, r.id FROM renders AS r LEFT JOIN assets AS a ON a.render_id = r.id"
            f" WHERE r.status = 'succeeded' AND a.stored_at IS NULL{_ALIVE}"
            " AND r.asset_key IN (SELECT value FROM json_each(?))"
        )
        # First by the render id that is part of Craftkit's keys; the few other keys are in `idx_renders_elsewhere`.
        named = [key.rpartition("/")[2].removesuffix(".pdf") for key in keys]
        by_id = self._query(f"{sql} AND r.id IN (SELECT value FROM json_each(?))", (json_text(keys), json_text(named)))
        found = {key: render_id for key, render_id in by_id}
        left = [key for key in keys if key not in found]
        if left:
            elsewhere = f"{sql} AND r.{ELSEWHERE}"
            found |= {key: render_id for key, render_id in self._query(elsewhere, (json_text(left),))}
        return found

    def add_assets(self, rows: Iterable[NewAsset]) -> None:
        """Record assets whose bytes are in the store, and end any acceptance of their loss."""
        rows = list(rows)
        render_ids = [row.render_id for row in rows]
        with self._keeping_totals(render_ids):
            self._write(
                "INSERT INTO assets (render_id, key, size_bytes, sha256, digest_source, source, stored_at, odd)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (render_id) DO UPDATE SET key = excluded.key,"
                " size_bytes = excluded.size_bytes, sha256 = excluded.sha256, digest_source = excluded.digest_source,"
                " source = excluded.source, stored_at = excluded.stored_at, odd = excluded.odd",
                rows,
            )
            self.end_acknowledgements(render_ids)

    def totals(self) -> Totals:
        """Return totals of the stored assets, by the states that their last checks left."""
        return Totals(*self.stored_totals(), self.stored_standing())

    def stored_totals(self) -> tuple[int, int, str | None]:
        """Return the number of stored PDFs, their bytes, and the time of the oldest check among their latest ones."""
        [totals] = self._query(
            "SELECT COALESCE(SUM(stored), 0), COALESCE(SUM(stored_bytes), 0), MIN(NULLIF(verified_at, '')) FROM totals"
            " WHERE stored <> 0"
        )
        return totals


def _project_info(parts: list[tuple[Any, ...]]) -> ProjectInfo:
    """Sum up one project from its rows, one for each state."""
    by_state: Counter[str] = Counter()
    for part in parts:
        by_state[part[4] or ""] += part[5]
    sums = [sum(part[at] for part in parts) for at in (5, 6, 7, 8, 10)]
    project_id, slug, name, deleted_at = parts[0][:4]
    return ProjectInfo(
        id=project_id,
        slug=slug,
        name=name,
        deleted_at=deleted_at,
        renders=sums[0],
        succeeded=sums[1],
        stored=sums[2],
        not_stored=by_state["not-stored"],
        stored_bytes=sums[3],
        verified_ok=by_state["ok"],
        damaged=by_state["damaged"],
        oldest_verified_at=min((part[9] for part in parts if part[9]), default=None),
        covered_bytes=sum(part[10] for part in parts if part[4] == "ok"),
        due_bytes=sums[3] - sums[4],
        unchecked=by_state["unchecked"],
        unreadable=by_state["unreadable"],
        unverified=by_state["unverified"],
        acknowledged=by_state["acknowledged"],
        disposed=by_state["disposed"],
    )


def _standing(counts: Iterable[tuple[Any, ...]], extra: int) -> Standing:
    sums: Counter[str] = Counter(extra=extra)
    for state, count, stored in counts:
        sums["stored"] += stored
        if state is not None:  # a render that owes no PDF
            sums[state.replace("-", "_")] += count
    return Standing(**sums)
