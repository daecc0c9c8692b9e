"""The queries behind `renders`, `runs` and `findings`: lists that people filter and search."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from craftkit_archive.catalog.ledger import LedgerQueries
from craftkit_archive.catalog.rows import PAGE, Selection, json_text
from craftkit_archive.records import FindingInfo, RenderInfo, RunInfo
from craftkit_archive.states import STATES

# The findings of one run in the form of `latest_findings`. The state is what the run saw, not the present one.
_FINDINGS_OF_RUN = f"""
    SELECT f.run_id, f.render_id, r.project_id, r.template_id, f.key, f.verdict,
           CASE WHEN f.acknowledged IS NOT NULL THEN 'acknowledged'
                ELSE json_extract('{msgspec.json.encode(STATES).decode()}', '$."' || f.verdict || '"') END AS state,
           f.expected, f.found, f.detail, f.found_at
    FROM findings AS f LEFT JOIN renders AS r ON r.id = f.render_id WHERE f.verdict <> 'ok'
"""


class LookupQueries(LedgerQueries):
    """Queries on renders with the states of their PDFs, on findings with their projects, and on older runs."""

    def render_infos(
        self, selection: Selection, states: Sequence[str] = (), search: str | None = None
    ) -> Iterator[RenderInfo]:
        """Yield renders with the states of their PDFs, in the order of their ids.

        Args:
            selection: The renders to choose from.
            states: Only renders in one of these states; if not given, all, including those that expect no PDF.
            search: Text to find in the id, the template id, the asset key or the error message, ignoring the case of
                ASCII letters.
        """
        terms: list[tuple[str, str | None]] = [
            (" AND s.state IN (SELECT value FROM json_each(?))", json_text(states or None)),
            (f" AND {_holds('r.id', 'r.template_id', 's.key', 'r.error_message')}", search or None),
        ]
        given = [(sql, value) for sql, value in terms if value is not None]
        sql = (
            "SELECT r.id, r.project_id, p.slug, r.template_id, r.status, s.state, s.key, s.size_bytes, a.sha256,"
            " r.created_at, r.completed_at, s.stored_at, s.verified_at, s.verdict, r.error_message"
            " FROM renders AS r JOIN asset_states AS s ON s.render_id = r.id"
            " LEFT JOIN assets AS a ON a.render_id = r.id LEFT JOIN projects AS p ON p.id = r.project_id"
            f" WHERE r.id > ?{''.join(term for term, _ in given)}{{where}} ORDER BY r.id LIMIT ?"
        )
        yield from self._pages(sql, selection, RenderInfo, [value for _, value in given])

    def runs_before(self, run_id: int | None, command: str | None, limit: int) -> list[RunInfo]:
        """Return runs, newest first: those before a run's number, or the newest; only of one command if it is given."""
        return self._runs(
            "WHERE id < COALESCE(?, id + 1) AND command = COALESCE(?, command) ORDER BY id DESC LIMIT ?",
            (run_id, command, limit),
        )

    def count_findings(self, run_id: int) -> int:
        """Count the findings of a run, without its notes."""
        return int(self._query("SELECT COUNT(*) FROM findings WHERE run_id = ? AND verdict <> 'ok'", (run_id,))[0][0])

    def finding_infos(
        self,
        *,
        run_id: int | None = None,
        project_ids: Sequence[str] = (),
        states: Sequence[str] = (),
        since: str | None = None,
        before: str | None = None,
        search: str | None = None,
    ) -> Iterator[FindingInfo]:
        """Yield findings with their projects and states, in the order in which they were found.

        Args:
            run_id: Findings of this run; if not given, the latest finding on everything that is wrong now.
            project_ids: Only findings on these projects' renders.
            states: Only findings in one of these states; those of a run's findings are as the run saw them.
            since: Only findings from this time on.
            before: Only findings before this time.
            search: Text to find in the render id, the asset key or the detail, ignoring the case of ASCII letters.
        """
        source = "latest_findings AS f" if run_id is None else f"({_FINDINGS_OF_RUN}) AS f"
        terms: list[tuple[str, Any]] = [
            (" AND f.run_id = ?", run_id),
            (" AND f.project_id IN (SELECT value FROM json_each(?))", json_text(project_ids or None)),
            (" AND f.state IN (SELECT value FROM json_each(?))", json_text(states or None)),
            (" AND f.found_at >= ?", since),
            (" AND f.found_at < ?", before),
            (f" AND {_holds('f.render_id', 'f.key', 'f.detail')}", search or None),
        ]
        given = [(sql, value) for sql, value in terms if value is not None]
        columns = "run_id, render_id, project_id, template_id, key, verdict, state, expected, found, detail, found_at"
        # The query runs once, into a temporary table on the disk: to find the newest finding of each key, it reads all
        # findings, and would do so again for every page.
        self._query("DROP TABLE IF EXISTS temp.listed")
        self._query(f"CREATE TEMP TABLE listed (position INTEGER PRIMARY KEY, slug, reason, {columns})")
        self._query(
            f"INSERT INTO temp.listed (slug, reason, {columns}) SELECT p.slug, k.reason,"
            f" {', '.join(f'f.{name}' for name in columns.split(', '))} FROM {source}"
            " LEFT JOIN projects AS p ON p.id = f.project_id"
            " LEFT JOIN acknowledgements AS k ON k.render_id = f.render_id AND f.state = 'acknowledged'"
            f" WHERE TRUE{''.join(sql for sql, _ in given)} ORDER BY f.found_at, f.run_id, f.key",
            [value for _, value in given],
        )
        after = 0
        while page := self._query(
            f"SELECT position, slug, reason, {columns} FROM temp.listed WHERE position > ? ORDER BY position LIMIT ?",
            (after, PAGE),
        ):
            after = page[-1][0]
            for _, slug, reason, *row in page:
                values: list[Any] = [*row[:3], slug, *row[3:], reason]
                yield FindingInfo(*values)


def _holds(*columns: str) -> str:
    """Return an SQL condition: one of these columns contains a text, ignoring the case of ASCII letters."""
    # Joined by newlines, which a text from the command line does not contain, so that no match spans two columns.
    joined = " || char(10) || ".join(f"COALESCE({column}, '')" for column in columns)
    return f"instr(lower({joined}), lower(?))"
