"""The queries that keep the running totals (see `totals`) where many rows are written at a time."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from craftkit_archive.catalog.connection import Connection
from craftkit_archive.catalog.rows import json_text
from craftkit_archive.catalog.totals import ADDED, COLUMNS, GROUPED, change_totals


class TotalsQueries(Connection):
    """Keeps the totals where many rows are written at a time, and recounts them."""

    @contextmanager
    def _keeping_totals(self, render_ids: Sequence[str], becomes: tuple[str, str] | None = None) -> Iterator[None]:
        """Keep the totals of some renders while their rows are written.

        Args:
            render_ids: Which; none where the one inside changes no state.
            becomes: The state and the time of the check that all of them that are stored have afterwards; where it is
                not given, that is looked up.
        """
        ids = (json_text(render_ids),)
        where = " WHERE render_id IN (SELECT value FROM json_each(?))"
        with self.transaction():
            self._query("INSERT INTO totals_kept DEFAULT VALUES")
            before = self._query(GROUPED.format(sign="", where=where), ids) if render_ids else []
            self._add_up([(*row[:3], *(-count for count in row[3:])) for row in before])
            yield
            if becomes is not None and all(row[3] == row[5] for row in before):  # all of them are stored
                self._add_up([(row[0], *becomes, *row[3:]) for row in before])
            elif render_ids:
                self._query(change_totals("", where), ids)
            self._query("DELETE FROM totals_kept")

    def _add_up(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._write(f"INSERT INTO totals ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?){ADDED}", rows)

    def _known_ids(self, table: str, column: str, ids: Iterable[str]) -> set[str]:
        """Return those ids that a table has."""
        ids = list(ids)
        if ids and min(ids) > self._query(f"SELECT COALESCE(MAX({column}), '') FROM {table}")[0][0]:
            return set()  # as in an import in the order of ids
        sql = f"SELECT {column} FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
        return {found for (found,) in self._query(sql, (json_text(ids),))}

    @contextmanager
    def _adding_renders(self, renders: Mapping[str, tuple[str, str]], known: set[str]) -> Iterator[None]:
        """Keep the totals while renders are put in; given are their projects and statuses, by id."""
        # Any of them may be new and disposed; or a row that somebody deleted comes back to an asset that stayed.
        looked_up = set(renders)
        if not self._has_tombstones():
            left = (self._known_ids(table, "render_id", renders) for table in ("assets", "acknowledgements"))
            looked_up = known.union(*left)
        with self._keeping_totals(list(looked_up)):
            yield
            self._add_new(Counter(what for render_id, what in renders.items() if render_id not in looked_up))

    def _has_tombstones(self) -> bool:
        made = self._query("SELECT 1 FROM sqlite_master WHERE name = 'tombstones'")
        return bool(made and self._query("SELECT 1 FROM tombstones LIMIT 1"))

    def _add_new(self, renders: Counter[tuple[str, str]]) -> None:
        """Add up renders that were not there, and whose PDFs nobody knows yet, by project and status."""
        self._write(
            f"INSERT INTO totals ({COLUMNS}) VALUES (?1, CASE WHEN ?2 THEN 'not-stored' ELSE '' END, '', ?3,"
            f" CASE WHEN ?2 THEN ?3 ELSE 0 END, 0, 0){ADDED}",
            [(project_id, status == "succeeded", count) for (project_id, status), count in renders.items()],
        )

    def count_anew(self) -> bool:
        """Count everything and put it into the table; say whether it was right before."""
        with self.transaction():
            was_right = self.has_right_totals()
            if not was_right:
                self._query("DELETE FROM totals")
                self._query(change_totals("", " WHERE TRUE"))
            return was_right

    def drop_empty_totals(self) -> None:
        """Remove what sums up nothing any more, such as the times of checks that others have replaced."""
        self._query("DELETE FROM totals WHERE renders = 0")

    def has_right_totals(self) -> bool:
        """Count everything and compare; it takes a second for a million renders."""
        counted = GROUPED.format(sign="", where="")
        kept = f"SELECT {COLUMNS} FROM totals WHERE renders <> 0 OR stored_bytes <> 0"
        return not self._query(
            f"SELECT 1 FROM (SELECT * FROM ({counted}) EXCEPT {kept}) UNION ALL"
            f" SELECT 1 FROM ({kept} EXCEPT SELECT * FROM ({counted})) LIMIT 1"
        )
