"""Commands that listen: serve, quickstart."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from craftkit_archive import errors
from craftkit_archive.commands.console import OK, Console, open_archive, write_line
from craftkit_archive.commands.options import ROTATION, SIZE, by_option, count_processes
from craftkit_archive.values import DAILY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from craftkit_archive.audit.access import Rotation
    from server.access_log import LogFormat
    from server.bodies import VerifyReads
    from server.serve import Supervisor


LISTEN = "127.0.0.1:8080"


class ServerCommand(click.Command):
    """A command that needs the package `server`, whose name other packages take too: see `__main__.py`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Read the command line, if `server` is the package that was installed with this one."""
        import server

        if getattr(server, "PROGRAM", None) != "craftkit-archive":
            where = server.__file__ or next(iter(server.__path__))
            raise errors.RequestError(
                f"{where} belongs to another package. Install craftkit-archive into a virtual environment of its own."
            )
        return super().parse_args(context, args)


def _addresses(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> frozenset[str]:
    from server.addresses import TrustedProxies

    try:
        TrustedProxies(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}: write 127.0.0.1, ::1, 10.0.0.0/8 or unix.") from error
    return frozenset(value)


def _hosts(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> frozenset[str]:
    from server.addresses import is_host

    for host in value:
        if not is_host(host):
            raise click.BadParameter(f"{host!r} is not a host: write pdfs.example.org or pdfs.example.org:8443.")
    return frozenset(host.lower() for host in value)


def _url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from urllib.parse import urlsplit

    from server.addresses import is_host

    try:
        parts = urlsplit(value or "http://x")
        good = parts.scheme in ("http", "https") and is_host(parts.netloc) and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good:
        raise click.BadParameter(f"{value!r} is not a URL such as https://pdfs.example.org.")
    return value


def _origins(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> frozenset[str]:
    for origin in value:
        if origin not in ("*", "null") and (not _url(_context, _parameter, origin) or origin.count("/") != 2):
            raise click.BadParameter(f"{origin!r} is not an origin such as https://app.example.org, or *.")
    return frozenset(value)


def _address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, such as {LISTEN} or [::1]:8080.")
    return host.strip("[]"), int(port)


def _listen_option(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--listen",
        metavar="HOST:PORT",
        default=default,
        show_default=True,
        callback=_address,
        help="Where to listen; port 0 takes a free one.",
    )


@click.command(cls=ServerCommand)
@click.option(
    "--listen",
    "addresses",
    metavar="ADDRESS",
    default=(LISTEN,),
    show_default=LISTEN,
    multiple=True,
    help="Where to listen: HOST:PORT (port 0 takes a free one), unix:/path, or fd:3 for systemd's socket; repeatable.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    callback=count_processes,
    help="Processes that answer requests.  [default: one for each processor]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="In each process: how many slow requests are processed at the same time.",
)
@click.option(
    "--public-url",
    metavar="URL",
    callback=_url,
    help="The URL under which clients reach this server.  [default: as each request says]",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    metavar="HOST",
    multiple=True,
    callback=_hosts,
    help="A host name that requests may use for this server besides the public URL; repeatable.",
)
@click.option(
    "--s3-public-url",
    metavar="URL",
    envvar="S3_PUBLIC_URL",
    show_envvar=True,
    help="The URL under which clients reach the bucket.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    metavar="NETWORK",
    multiple=True,
    callback=_addresses,
    help="A proxy in front (127.0.0.1, 10.0.0.0/8, or unix for a Unix socket) whose X-Forwarded-For, -Proto and -Host,"
    " or Forwarded, are believed; repeatable.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    metavar="ORIGIN",
    multiple=True,
    callback=_origins,
    help="An origin whose scripts may read answers in a browser, or * for all; repeatable.  [default: none]",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    callback=_address,
    help="Where Prometheus finds /metrics, without a key.  [default: nowhere]",
)
@click.option(
    "--verify-reads",
    type=click.Choice(["always", "size", "never"]),
    default="always",
    show_default=True,
    help="What to compare with the record before a PDF is sent: always every byte, only its size, or nothing.",
)
@click.option(
    "--max-buffer",
    type=SIZE,
    default="256KiB",
    show_default=True,
    help="Send PDFs up to this size from memory. Larger ones are read a second time while they are sent.",
)
@click.option(
    "--access-log",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Append a line for each answer to this file or pipe, or - for standard output; reopened on SIGHUP.",
)
@click.option(
    "--access-log-format",
    "log_format",
    type=click.Choice(["json", "combined"]),
    default="json",
    show_default=True,
    help="The format of a line: a JSON object, or Apache's combined format.",
)
@click.option(
    "--audit-access",
    "rotation",
    metavar="DAILY|SIZE",
    type=ROTATION,
    help="Rotate the access log each day (UTC) or at a size such as 100M, and record finished ones in the audit log.",
)
@click.option("--sealed", is_flag=True, help="The archive never changes, as on read-only media: write nothing to it.")
@by_option
@click.pass_obj
def serve(
    console: Console,
    addresses: tuple[str, ...],
    workers: int,
    threads: int,
    public_url: str | None,
    allowed_hosts: frozenset[str],
    s3_public_url: str | None,
    trusted_proxies: frozenset[str],
    cors_origins: frozenset[str],
    metrics: tuple[str, int] | None,
    verify_reads: VerifyReads,
    max_buffer: int,
    access_log: str | None,
    log_format: LogFormat,
    rotation: int | None,
    sealed: bool,
) -> int:
    """Serve GET /v1/renders/:id/download and related routes, as Craftkit does, to clients with an API key.

    At / there is a page for people: it asks for a key, lists the renders of its project, and opens their PDFs.
    """
    from server.access_log import AccessLog
    from server.app import Settings
    from server.serve import ServePlan, Supervisor, listen, url_of

    if rotation is not None and (sealed or access_log is None or not _is_file(access_log)):
        raise errors.RequestError("--audit-access rotates a file and writes to the archive: add --access-log FILE.")
    with open_archive(console, read_only=True, sealed=sealed) as archive:
        archive.store.check(archive.id)
    if access_log is not None:
        AccessLog(access_log).close()
    listeners = [listen(address) for address in addresses]
    urls = [url_of(listener) for listener in listeners]
    settings = Settings(
        public_url=public_url,
        allowed_hosts=allowed_hosts,
        s3_public_url=s3_public_url,
        listen_url=f"http://{min(allowed_hosts)}" if allowed_hosts else urls[0],
        verify_reads=verify_reads,
        max_buffer_bytes=max_buffer,
        trusted_proxies=trusted_proxies,
        cors_origins=cors_origins,
        log_folder=Path(access_log).absolute().parent if access_log not in (None, "-") else None,
    )
    plan = ServePlan(console.archive, settings, threads, access_log, log_format, sealed, console.quiet, metrics)
    with Supervisor(plan, listeners, workers) as supervisor, ExitStack() as stack:
        if rotation is not None and access_log is not None:
            stack.enter_context(_rotating(console, Path(access_log), rotation, supervisor))
        _wait(console, urls, supervisor.tend, supervisor.metrics_url)
    return _served(console, "serve")


def _is_file(path: str) -> bool:
    return path != "-" and (Path(path).is_file() or not Path(path).exists())


def _rotating(console: Console, path: Path, rotation: int, supervisor: Supervisor) -> Rotation:
    import signal

    from craftkit_archive.audit.access import Rotation

    def reopen() -> None:
        supervisor.send(signal.SIGHUP)

    size_bytes = None if rotation == DAILY else rotation
    return Rotation(console.archive, path.absolute(), size_bytes=size_bytes, reopen=reopen, by=console.by)


@contextmanager
def _serving(console: Console, address: tuple[str, int]) -> Iterator[tuple[str, Callable[[], None]]]:
    from server.app import Settings
    from server.serve import ServePlan, Supervisor, listen, url_of

    with open_archive(console, read_only=True) as archive:
        archive.store.check(archive.id)
    listener = listen("{}:{}".format(*address))
    url = url_of(listener)
    plan = ServePlan(console.archive, Settings(listen_url=url), quiet=console.quiet)
    with Supervisor(plan, [listener], 1) as supervisor:
        yield url, supervisor.tend


def _wait(console: Console, urls: list[str], meanwhile: Callable[[], None], metrics_url: str | None = None) -> None:
    if console.json:
        import msgspec

        told = {"type": "listening", "url": urls[0], "urls": urls, "metrics": metrics_url}
        write_line(msgspec.json.encode(told).decode())
    console.say(f"Listening on {', '.join(urls)}; Ctrl-C ends it.")
    if metrics_url:
        console.say(f"Metrics are at {metrics_url}.")
    while not console.stop():
        meanwhile()
        time.sleep(0.1)


def _served(console: Console, command: str) -> int:
    from craftkit_archive.records import Summary

    code = console.stop.exit_code
    console.close(Summary(command=command, outcome="interrupted", exit_code=code))
    return code


@click.command(cls=ServerCommand)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--once", is_flag=True, help="Download one PDF from the server and stop, instead of serving on.")
@_listen_option("127.0.0.1:0")
@by_option
@click.pass_obj
def quickstart(console: Console, directory: Path, once: bool, listen: tuple[str, int]) -> int:
    """Try everything: create an archive, import, fetch, verify and export DIR, then serve it.

    DIR holds projects, keys and renders (.json or .ndjson) and the PDFs in bucket/. It can be run again. PDFs that are
    missing from the bucket are reported, but do not count as a failure here.
    """
    from craftkit_archive.archive import CATALOG, Archive
    from craftkit_archive.parallel.pool import default_jobs
    from craftkit_archive.quickstart import choose_download, download, quickstart_steps
    from craftkit_archive.records import OUTCOME_CODES, Summary

    if not (console.archive / CATALOG).exists():
        Archive.create(console.archive, by=console.by).catalog.close()
    worst = OK
    with open_archive(console) as archive:
        export_to = console.archive / "export"
        for title, records in quickstart_steps(archive, directory, export_to, jobs=default_jobs(), stop=console.stop):
            console.say(title)
            summary, code = console.show(records)
            console.close(summary, part=True)
            if console.stop():
                return code
            if code != OUTCOME_CODES["incomplete"]:
                worst = max(worst, code)
        asset, key = choose_download(archive)
    with _serving(console, listen) as (own_url, tend):
        url = f"{own_url}/v1/renders/{asset.render_id}/download"
        if once:
            size = download(url, key, asset)
            console.say(f"Downloaded {url}: {size} bytes, whose digest is the recorded one.")
        else:
            console.say("Download one with:")
            curl = f"curl --fail --output sample.pdf --header 'Authorization: Bearer {key.key}' {url}"
            click.echo(curl, err=console.json)
            _wait(console, [own_url], tend)
    if not once:
        return _served(console, "quickstart")
    outcome = next(name for name, code in OUTCOME_CODES.items() if code == worst)
    console.close(Summary(command="quickstart", outcome=outcome, exit_code=worst, counts={"downloaded": 1}))
    return worst
