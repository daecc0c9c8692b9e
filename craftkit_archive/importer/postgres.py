"""Reads tables of a live Craftkit database; the only user of psycopg.

The server writes each row as JSON (`row_to_json`), so that types, times, nulls and escapes mean the same as in a file
of JSON lines, and rows are decoded by the same fast code.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from craftkit_archive.decoding import snake
from craftkit_archive.errors import RemoteError, RequestError, StoreOfflineError, install_hint
from craftkit_archive.importer.streams import BLOCK_BYTES, MAX_RECORD_BYTES, Block
from craftkit_archive.parallel.batches import Stop
from craftkit_archive.records import TABLES, Kind
from craftkit_archive.values import DATABASE_SCHEME, without_password

if TYPE_CHECKING:
    import psycopg

FETCH_ROWS = 2000
# Time-outs for a server that does not answer, in seconds; parameters of the address override them.
PATIENCE = {"connect_timeout": 8, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
# Parameters that other clients put into addresses, and that libpq refuses.
FOREIGN_PARAMETERS = {"schema", "connection_limit", "pool_timeout", "pgbouncer", "socket_timeout", "sslaccept"}


def is_database(source: str) -> bool:
    """Return whether a source is the address of a PostgreSQL database."""
    return DATABASE_SCHEME.match(source) is not None


def read_table(
    address: str, kind: Kind, *, table: str | None = None, where: str | None = None, stop: Stop
) -> Iterator[Block]:
    """Yield the rows of a table as lines of JSON, lazily, in a read-only transaction, from one snapshot.

    Rows are streamed one by one from a server-side cursor, so that memory stays flat whatever the table and its rows
    hold.

    Args:
        address: `postgresql://user@host:5432/database`; what it leaves out comes from the environment (`PGPASSWORD`,
            `PGHOST`, …) and `~/.pgpass`, as for psql. `?schema=` names the schema to search first.
        kind: The kind of records; determines the table unless `table` is given.
        table: Its name as in SQL: `craftkit.renders`, `"Render"`.
        where: An SQL condition; only rows for which it is true are read.
        stop: Asked while waiting for rows; a running query is then cancelled.

    Raises:
        RequestError: psycopg is not installed, the address is malformed, or the server refuses the query.
        StoreOfflineError: The database cannot be reached, or refuses this user.
        RemoteError: The connection broke, or the server aborted the query.
    """
    with closing(_connect(address)) as connection, _cancelled_by(stop, connection), suppress(_StoppedError):
        connection.read_only = True
        with connection.cursor() as cursor, _server_errors(address, stop):
            cursor.execute("SET LOCAL timezone = 'UTC'")
            cursor.execute("SET LOCAL bytea_output = 'hex'")
            if schema := _schema(address):
                cursor.execute("SELECT set_config('search_path', quote_ident(%s) || ', public', true)", [schema])
            # A server prepares only a single statement, so that no condition can smuggle in a second one.
            cursor.execute(_query(_find_table(cursor, kind, table), where).encode(), prepare=True)
            yield from _blocks(cursor)


class _StoppedError(Exception):
    pass


def _find_table(cursor: "psycopg.Cursor[Any]", kind: Kind, table: str | None) -> str:
    """Return the name of the table to read, quoted for SQL."""
    for name in TABLES[kind] if table is None else [table]:
        # As in SQL, `Render` means `render`; if there is no such table, the name is used exactly as spelled.
        spelled = name if _SQL_NAME.fullmatch(name) else None
        cursor.execute(
            "SELECT oid::regclass::text, ARRAY(SELECT attname::text FROM pg_attribute"
            " WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped)"
            " FROM pg_class WHERE oid = coalesce(to_regclass(%s), to_regclass(quote_ident(%s)))",
            [spelled, name],
        )
        if found := cursor.fetchone():
            if not {"id", "render_id"} & {snake(column) for column in found[1]}:
                raise RequestError(f"The table {found[0]} has no column id. Name the one with the {kind} as --table.")
            return str(found[0])
    cursor.execute(
        "SELECT DISTINCT attrelid::regclass::text FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " WHERE relkind = ANY('{r,v,m,p,f}') AND attname = 'id' AND relname ILIKE %s"
        " AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) ORDER BY 1 LIMIT 6",
        [f"%{kind.removesuffix('s')}%"],
    )
    like = ", ".join(row[0] for row in cursor.fetchall())
    raise RequestError(
        f"The database has no table {table or TABLES[kind][0]}. Name the one with the {kind} as --table."
        + (f" These may be it: {like}." if like else "")
    )


_SQL_NAME = re.compile(r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)(?:\.(?:"(?:[^"]|"")+"|[^\W\d][\w$]*))*')


def _query(table: str, where: str | None) -> str:
    # On a line of its own, so that a comment at the end of the condition does not swallow the parenthesis.
    condition = f" WHERE (\n{where}\n)" if where else ""
    # A row that is too large for a record is cut on the server instead of being sent.
    text = f"left(row_to_json(craftkit_row)::text, {MAX_RECORD_BYTES + 1})"
    rows = f"SELECT * FROM {table}{condition}"  # noqa: S608 - a name from the server, a condition from the operator
    return f"DECLARE craftkit_rows NO SCROLL CURSOR FOR SELECT {text} FROM ({rows}) AS craftkit_row"  # noqa: S608


def _blocks(cursor: "psycopg.Cursor[Any]") -> Iterator[Block]:
    """Fetch the rows, each as a line, and collect them into blocks."""
    from psycopg.adapt import Loader

    class Raw(Loader):
        """Keeps a text as bytes, so that one that is not UTF-8 is rejected and does not end the import."""

        def load(self, data: Any) -> bytes:
            return bytes(data)

    cursor.adapters.register_loader("text", Raw)
    first, line, size, lines = 1, 0, 0, list[bytes]()
    while True:
        fetched = line
        # Streamed row by row: 2,000 rows at once might be gigabytes.
        for (text,) in cursor.stream(f"FETCH FORWARD {FETCH_ROWS} FROM craftkit_rows"):
            # A column of type json keeps its line breaks.
            lines.append(text.replace(b"\n", b" "))
            line, size = line + 1, size + len(text)
            if size >= BLOCK_BYTES:
                yield Block(first, b"\n".join(lines), None)
                first, size, lines = line + 1, 0, []
        if line == fetched:
            break
    if lines:
        yield Block(first, b"\n".join(lines), None)


# --- the connection --------------------------------------------------------------------------------------------------


def _connect(address: str) -> "psycopg.Connection[Any]":
    try:
        import psycopg
    except ImportError as error:
        raise RequestError(
            f"Reading a database needs psycopg, which is not installed. {install_hint('postgres')}"
        ) from error
    try:
        # libpq's own message is dropped, because it may quote a part of the password.
        parameters = psycopg.conninfo.conninfo_to_dict(_libpq_address(address))
    except psycopg.Error:
        parameters = None
    # A host that contains `@` is really the end of a password that contains one.
    if parameters is None or "@" in str(parameters.get("host")):
        raise RequestError(
            f"{without_password(address)} is not a valid database address. Write postgresql://user@host:5432/database,"
            " special characters as %XX, and give the password as PGPASSWORD or in ~/.pgpass."
        )
    try:
        usual: dict[str, Any] = {**PATIENCE, "application_name": "craftkit-archive"}
        return psycopg.connect(**{**usual, **parameters, "client_encoding": "UTF8"})
    except psycopg.Error as error:
        words = " ".join(str(error).split()).removeprefix("connection failed: ")
        advice = "check the address, and that the server accepts connections from here"
        if "password" in words or "authentication" in words:
            advice = "check the user, and give the password as PGPASSWORD or in ~/.pgpass"
        raise StoreOfflineError(f"Cannot open {without_password(address)} ({words}): {advice}.") from error


def _libpq_address(address: str) -> str:
    """Convert an address to the form that libpq accepts; those of Prisma and SQLAlchemy differ a little."""
    base, _, query = DATABASE_SCHEME.sub("postgresql://", address).partition("?")
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name not in FOREIGN_PARAMETERS]
    # `quote` encodes a space as %20: libpq does not read a plus sign as a space.
    return f"{base}?{urlencode(kept, quote_via=quote)}" if kept else base


def _schema(address: str) -> str | None:
    found = re.search(r"[?&]schema=([^&]+)", address)
    return unquote(found[1]) if found else None


@contextmanager
def _cancelled_by(stop: Stop, connection: "psycopg.Connection[Any]") -> Iterator[None]:
    """Cancel the running query when the work is to stop; close the connection if the server does not answer.

    A separate thread watches, because the one that waits for rows would notice the stop only when some arrive.
    """
    import psycopg

    done = Event()

    def watch() -> None:
        while not done.wait(0.2):
            if stop():
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=2)
                if not done.wait(2):
                    with suppress(OSError, psycopg.Error), socket.socket(fileno=connection.fileno()) as wire:
                        wire.shutdown(socket.SHUT_RDWR)
                        wire.detach()
                return

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@contextmanager
def _server_errors(address: str, stop: Stop) -> Iterator[None]:
    """Map the server's errors to ours; the error of a query that was cancelled ends the work quietly."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        if stop():
            raise _StoppedError from error
        if not isinstance(error, psycopg.OperationalError):
            raise RequestError(
                f"{_words(address, error)}. Check --table, --where and the rights of the user."
            ) from error
        raise RemoteError(f"{_words(address, error)}. Run the import again, which does the rest.") from error


def _words(address: str, error: "psycopg.Error") -> str:
    said = error.diag.message_primary or " ".join(str(error).split()).rstrip(".")
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    return f"{without_password(address)} says: {said}{hint}"
