"""Running totals: how many PDFs are in which state, project by project, so that to count them takes no walk.

The table `totals` sums up the view `asset_states`: a row for each project, state, and time of the last check. Triggers
keep it for whoever changes or deletes rows. What inserts renders and assets, or writes many rows at a time, keeps it
itself, in the same transaction. What another program inserts is counted by the next `verify --level size`, and `doctor`
says so.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

# Rows of these come by the million. A trigger that could fire makes SQLite keep a journal for each single row, even if
# it never fires, which takes an import half of its time again; so who inserts adds up too.
INSERTED = ("renders", "assets")
# The tables that say what state a PDF is in, and where each has the id of the render.
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
    """Add up renders, or with a minus sign take them out."""
    # Without a WHERE, SQLite would take ON for a join's.
    return f"INSERT INTO totals ({COLUMNS}) {GROUPED.format(sign=sign, where=where)}{ADDED}"


def make_totals(db: "Database") -> None:
    """Make the table, fill it, and let triggers keep it; in an archive that has it, make the triggers again."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS totals (project_id TEXT NOT NULL, state TEXT NOT NULL, verified_at TEXT NOT NULL,"
        " renders INTEGER NOT NULL, succeeded INTEGER NOT NULL, stored INTEGER NOT NULL, stored_bytes INTEGER NOT NULL,"
        " PRIMARY KEY (project_id, state, verified_at)) WITHOUT ROWID"
    )
    # Has a row as long as one who writes many rows keeps the totals himself.
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
                    # It comes before an upsert that updates too, and before one that is ignored.
                    condition += f" AND NOT EXISTS (SELECT 1 FROM {table} WHERE {column} = NEW.{column})"
                db.execute(f"DROP TRIGGER IF EXISTS {name}")
                db.execute(
                    f"CREATE TRIGGER {name} {when} {event} ON {table} WHEN {condition}"
                    f" BEGIN {change_totals(sign, f' WHERE render_id = {row}.{column}')}; END"
                )
    db.execute("DELETE FROM totals")
    db.execute(change_totals("", " WHERE TRUE"))
