"""Running totals: the number of PDFs in each state, project by project, so that counting them needs no scan.

The table `totals` sums up the view `asset_states` by project, state, and time of the last check. Triggers update it
when rows are changed or deleted. Code that inserts renders and assets, or writes many rows at a time, updates it
itself, in the same transaction. Rows that another program inserts are counted by the next `verify --level size`; until
then, `doctor` reports the difference.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

# Rows of these tables are inserted by the million, and a trigger on inserts makes SQLite keep a journal for each row,
# even if its condition is never true: an import took half as long again. So the code that inserts updates the totals.
INSERTED = ("renders", "assets")
# The tables that determine the state of a PDF, each with its column for the render id.
SOURCES = {"renders": "id", "assets": "render_id", "acknowledgements": "render_id", "tombstones": "render_id"}

COLUMNS = "project_id, state, verified_at, renders, succeeded, stored, stored_bytes"
GROUPED = (
    "SELECT project_id, COALESCE(state, ''), COALESCE(verified_at, ''), {sign}COUNT(*),"
    " {sign}SUM(status = 'succeeded'), {sign}COUNT(stored_at),"
    " {sign}COALESCE(SUM(CASE WHEN stored_at IS NOT NULL THEN size_bytes END), 0)"
    " FROM asset_states{where} GROUP BY 1, 2, 3"
)
ADDED = (
    " ON CONFLICT DO UPDATE SET renders = renders + excluded.renders, succeeded = succeeded + excluded.succeeded,"
    " stored = stored + excluded.stored, stored_bytes = stored_bytes + excluded.stored_bytes"
)


def change_totals(sign: str, where: str) -> str:
    """Return SQL that adds renders to the totals or, with a minus sign, subtracts them.

    Args:
        sign: Empty, or `-`.
        where: A WHERE clause over `asset_states`. It must not be empty: SQLite would read the ON of the upsert as that
            of a join.
    """
    return f"INSERT INTO totals ({COLUMNS}) {GROUPED.format(sign=sign, where=where)}{ADDED}"


def make_totals(db: "Database") -> None:
    """Create the table with its triggers, and fill it; in an archive that has the table, replace the triggers."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS totals (project_id TEXT NOT NULL, state TEXT NOT NULL, verified_at TEXT NOT NULL,"
        " renders INTEGER NOT NULL, succeeded INTEGER NOT NULL, stored INTEGER NOT NULL, stored_bytes INTEGER NOT NULL,"
        " PRIMARY KEY (project_id, state, verified_at)) WITHOUT ROWID"
    )
    # Holds a row while a writer of many rows updates the totals itself, which keeps the triggers from firing.
    db.execute("CREATE TABLE IF NOT EXISTS totals_kept (kept INTEGER PRIMARY KEY)")
    tables = {table.name for table in db.tables}
    for table, column in SOURCES.items():
        if table not in tables:
            continue
        for event, before, after in (("INSERT", "NEW", "NEW"), ("UPDATE", "OLD", "NEW"), ("DELETE", "OLD", "OLD")):
            if table in INSERTED and event == "INSERT":
                continue
            for when, sign, row in (("BEFORE", "-", before), ("AFTER", "+", after)):
                if (table, when, event) == ("renders", "AFTER", "DELETE"):
                    continue  # nothing is left
                name = f"totals_{table}_{when}_{event}".lower()
                condition = "NOT EXISTS (SELECT 1 FROM totals_kept)"
                if (when, event) == ("BEFORE", "INSERT"):
                    # SQLite fires it for an upsert that ends up updating, too, and for an insert that is ignored.
                    condition += f" AND NOT EXISTS (SELECT 1 FROM {table} WHERE {column} = NEW.{column})"
                db.execute(f"DROP TRIGGER IF EXISTS {name}")
                db.execute(
                    f"CREATE TRIGGER {name} {when} {event} ON {table} WHEN {condition}"
                    f" BEGIN {change_totals(sign, f' WHERE render_id = {row}.{column}')}; END"
                )
    db.execute("DELETE FROM totals")
    db.execute(change_totals("", " WHERE TRUE"))
