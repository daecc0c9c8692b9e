"""Prometheus metrics on the processes of a server and on the archive.

The processes share their numbers through the folder `PROMETHEUS_MULTIPROC_DIR`, which prometheus-client reads when it
is imported, so a process can count only if it was started with that variable.
"""

import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.multiprocess import mark_process_dead as mark_process_dead
from prometheus_client.registry import Collector

from craftkit_archive import __version__
from craftkit_archive.archive import Archive
from craftkit_archive.errors import ArchiveError, RequestError
from server.context import RequestContext

PREFIX = "craftkit_archive"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class RequestMetrics:
    """The metrics that one process counts."""

    def __init__(self) -> None:
        own: dict[str, Any] = {"namespace": PREFIX, "registry": None}
        words = "Time from the complete request to the last byte of its answer."
        self._requests = Counter("http_requests", "Answered requests.", ("route", "status"), **own)
        self._seconds = Histogram("http_request_seconds", words, ("route",), buckets=BUCKETS, **own)
        self._bytes = Counter("http_sent_bytes", "Bytes of bodies that were sent.", ("route",), **own)
        self._damaged = Counter("refused_damaged", "Downloads refused because the PDF differs from its record.", **own)
        self._logins = Counter("failed_logins", "Requests without a valid API key.", **own)
        connections = Gauge("connections", "Open connections.", multiprocess_mode="livesum", **own)
        self.set_connections = connections.set

    def observe(self, context: RequestContext, bytes_sent: int, *, complete: bool) -> None:
        """Count an answer."""
        route = context.route or "none"
        self._requests.labels(route, str(context.status)).inc()
        self._seconds.labels(route).observe(time.monotonic() - context.began)
        self._bytes.labels(route).inc(bytes_sent)
        self._damaged.inc(context.damaged)
        self._logins.inc(context.status == 401)


class _ArchiveCollector(Collector):
    """Queries the catalog at each scrape."""

    def __init__(self, path: Path, *, sealed: bool) -> None:
        self._path = path
        self._sealed = sealed

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of the archive, and the version of the program."""
        build = GaugeMetricFamily(f"{PREFIX}_build_info", "The program.", labels=["version", "python"])
        build.add_metric([__version__, platform.python_version()], 1)
        values: list[tuple[str, str, float]] = []
        with suppress(ArchiveError), Archive(self._path, read_only=True, sealed=self._sealed) as archive:
            totals = archive.catalog.totals()
            oldest = datetime.fromisoformat(totals.oldest_check).timestamp() if totals.oldest_check else 0
            values = [
                ("stored_assets", "Stored PDFs.", totals.stored),
                ("stored_bytes", "Their bytes.", totals.stored_bytes),
                ("verified_assets", "Those whose last check found them good.", totals.standing.ok),
                ("damaged_assets", "Those whose last check found them damaged or missing.", totals.standing.damaged),
                ("unreadable_assets", "Those that the last check could not read.", totals.standing.unreadable),
                ("unverified_assets", "Those without anything to compare with.", totals.standing.unverified),
                ("acknowledged_assets", "Those that were accepted as lost.", totals.standing.acknowledged),
                ("unchecked_assets", "Those that were never checked.", totals.standing.unchecked),
                ("oldest_check_timestamp_seconds", "The check that is longest ago; 0 before the first.", oldest),
            ]
        values.append(("catalog_up", "1 if the catalog can be read.", bool(values)))
        return [build, *(GaugeMetricFamily(f"{PREFIX}_{name}", words, value) for name, words, value in values)]


def expose(host: str, port: int, archive: Path, *, sealed: bool) -> str:
    """Serve metrics on a separate address, without a key, until this process ends; return the URL.

    Raises:
        RequestError: It cannot listen on the address.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, os.environ["PROMETHEUS_MULTIPROC_DIR"])  # type: ignore[no-untyped-call]
    registry.register(_ArchiveCollector(archive, sealed=sealed))
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        words = f"Cannot listen on {host}:{port} for --metrics ({error.strerror})"
        raise RequestError(f"{words}. Choose another address.") from error
    return f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
