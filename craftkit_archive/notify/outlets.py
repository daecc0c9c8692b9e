"""Outlets over HTTP, through a program, and through Apprise; each delivers one notice, or says why it could not.

Their messages never quote the other side, because a server may send back what it was sent, such as a token.
"""

import logging
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from tempfile import TemporaryFile
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from urllib3.exceptions import (
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
    TimeoutError,
)
from urllib3.util import Timeout

from craftkit_archive import __version__
from craftkit_archive.connections import UnreadRetry, open_pool
from craftkit_archive.errors import install_hint
from craftkit_archive.notify.message import Notice
from craftkit_archive.notify.settings import (
    APPRISE_URLS,
    PING_URL,
    WEBHOOK_TOKEN,
    WEBHOOK_URL,
    check_url,
)
from craftkit_archive.overriding import override
from craftkit_archive.secrets import read_secret
from craftkit_archive.values import origin_of

TRIES = 3
# Temporary refusals: busy, too many requests, or a gateway whose service is restarting.
HEALING = (408, 425, 429, 500, 502, 503, 504)
# healthchecks.io keeps no more.
MAX_PING_BYTES = 100_000


# Marks the threads that deliver. What libraries log in them contains whole URLs, and must not reach standard error, to
# which Python writes warnings if no handler is set.
THREAD_PREFIX = "notify "


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(THREAD_PREFIX)


for _name in ("urllib3.connectionpool", "urllib3.util.retry", "apprise"):
    logging.getLogger(_name).addFilter(_is_not_ours)


class UndeliveredError(Exception):
    """A notice did not reach an outlet; the text says why, and what to do."""


class Outlet(ABC):
    """A channel by which notices are delivered.

    Attributes:
        name: Its name in the configuration.
    """

    name: str

    @abstractmethod
    def deliver(self, notice: Notice, budget_s: float) -> str:
        """Deliver a notice within `budget_s` seconds, and return in a few words what was reached.

        Raises:
            UndeliveredError: The other side cannot be reached, or refuses the notice.
            RequestError: The outlet is not set up properly.
        """

    def abort(self) -> None:  # noqa: B027 - most outlets hold nothing that outlives their thread
        """Abort a delivery that did not finish in time; called from another thread."""


# --- HTTP -------------------------------------------------------------------------------------------------------------


class Ping(Outlet):
    """A dead man's switch, which raises an alarm if no ping arrives.

    Args:
        url: The URL in the configuration; a secret from the environment overrides it.
        started: Whether to report the beginning of a night instead of its end.
    """

    name = "ping"

    def __init__(self, url: str | None, *, started: bool = False) -> None:
        self._url = url
        self._started = started

    @override
    def deliver(self, notice: Notice, budget_s: float) -> str:
        """Ping: `URL/start`, `URL` or `URL/fail`, with the notice's text as the body."""
        url = _secret_url(PING_URL, self._url)
        suffix = "/start" if self._started else "" if notice.good else "/fail"
        parts = urlsplit(url)
        # A query, such as ?create=1 of healthchecks.io, must stay after the path.
        url = urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix)) if suffix else url
        body = b"" if self._started else notice.as_text().encode()[:MAX_PING_BYTES]
        return _post(url, body, {"Content-Type": "text/plain; charset=utf-8"}, budget_s)


class Webhook(Outlet):
    """A URL that takes the notice as JSON."""

    name = "webhook"

    def __init__(self, url: str | None) -> None:
        self._url = url

    @override
    def deliver(self, notice: Notice, budget_s: float) -> str:
        """Post the notice as JSON, with the token if there is one."""
        url = _secret_url(WEBHOOK_URL, self._url)
        headers = {"Content-Type": "application/json"}
        if token := read_secret(WEBHOOK_TOKEN):
            if not token.isascii() or not token.isprintable() or " " in token:
                raise UndeliveredError(f"{WEBHOOK_TOKEN} is not a token: a header cannot hold it. Set it again.")
            headers["Authorization"] = f"Bearer {token}"
        return _post(url, notice.as_json(), headers, budget_s)


def _secret_url(name: str, configured: str | None) -> str:
    secret = read_secret(name)
    try:
        return check_url(secret or configured or "")
    except ValueError as error:
        raise UndeliveredError(f"{name}: {error}.") from error


def _post(url: str, body: bytes, headers: dict[str, str], budget_s: float) -> str:
    """Send a body in up to `TRIES` attempts, and return the origin that accepted it."""
    origin = origin_of(url)
    retries = UnreadRetry(
        total=TRIES - 1,
        redirect=False,  # the token must not be sent to another host
        backoff_factor=budget_s / 20,
        backoff_max=budget_s / 10,
        status_forcelist=HEALING,
        allowed_methods=None,
        raise_on_status=False,
        retry_after_max=max(1, int(budget_s / 10)),
    )
    timeout = Timeout(total=budget_s * 0.9 / TRIES)
    headers = {"User-Agent": f"craftkit-archive/{__version__}", **headers}
    with open_pool(url, retries=retries, timeout=timeout) as pool:
        try:
            answer = pool.request("POST", url, body=body, headers=headers, preload_content=False, redirect=False)
        except HTTPError as error:
            raise UndeliveredError(f"{origin} {_reason(error)}.") from error
        answer.close()  # not read, because the body may be endless
    if 200 <= answer.status < 300:
        return origin
    if 300 <= answer.status < 400:
        target = answer.headers.get("location", "")
        moved = origin_of(target) if "://" in target else "another path"
        raise UndeliveredError(f"{origin} redirects to {moved} ({answer.status}). Write the new URL.")
    tries = f" {TRIES} times" if answer.status in HEALING else ""
    raise UndeliveredError(f"{origin} answered {answer.status}{tries}. {_advice(answer.status)}")


def _advice(status: int) -> str:
    if status in (401, 403):
        return f"Check {WEBHOOK_TOKEN} and the URL."
    return "Check that service." if status >= 500 or status in HEALING else "Check the URL."


def _reason(error: HTTPError) -> str:
    """Return in our own words why a request was not answered."""
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    match reason:
        case SSLError():
            return "has no certificate that is trusted. Set SSL_CERT_FILE to that of its authority"
        case NameResolutionError():
            return "has a name that is not known here. Check the URL and the network"
        case ProxyError():
            return "cannot be reached through the proxy that the environment names. Check the proxy"
        case NewConnectionError():
            said = getattr(reason.__cause__ or reason.__context__, "strerror", None)
            return f"cannot be reached ({(said or 'no connection').lower()}). Check the URL and the network"
        case TimeoutError():
            return f"did not answer in time, {TRIES} times. Check that service"
        case _:
            return "broke off, or does not speak HTTP. Check the URL"


# --- a program --------------------------------------------------------------------------------------------------------


class Command(Outlet):
    """A program that receives the notice as JSON on its standard input, and its main fields as variables."""

    name = "command"

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._process: subprocess.Popen[bytes] | None = None

    @override
    def deliver(self, notice: Notice, budget_s: float) -> str:
        """Run the program in a process group of its own, which is killed if it takes too long."""
        facts = {"OUTCOME": notice.outcome, "EXIT_CODE": str(notice.exit_code), "SUBJECT": notice.subject()}
        facts |= {"HOST": notice.host, "ARCHIVE": notice.archive, "SENTENCE": notice.sentence}
        environment = {**os.environ, **{f"NOTICE_{name}": value for name, value in facts.items()}}
        program = os.path.basename(self._words[0])  # noqa: PTH119 - a text that may be no path
        # A file instead of a pipe, because the program may not read its input.
        with TemporaryFile() as given:
            given.write(notice.as_json())
            given.seek(0)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - the operator's own command
                    self._words,
                    stdin=given,
                    # Its output may contain secrets, and standard output belongs to the night; it keeps its own log.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                reason = (getattr(error, "strerror", None) or "it is not a command").lower()
                raise UndeliveredError(f"{program} cannot be run: {reason}. Check the command.") from error
        try:
            code = self._process.wait(budget_s)
        except subprocess.TimeoutExpired as error:
            self.abort()
            raise UndeliveredError(f"{program} did not end within {budget_s:.0f} s, and was killed.") from error
        if code:
            how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
            raise UndeliveredError(f"{program} {how}. Run it by hand to see why.")
        return program

    @override
    def abort(self) -> None:
        """Kill the program and all processes that it started."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


# --- Apprise ----------------------------------------------------------------------------------------------------------


class _Service(NamedTuple):
    url: str
    name: str  # a name that may be shown: an Apprise URL has its token where others have a host


class AppriseService(Outlet):
    """One service that Apprise supports; each has an outlet of its own, so that none can hold up another.

    Args:
        number: The position of its URL in the secret, from 0.
    """

    name = "apprise"

    def __init__(self, number: int) -> None:
        self._number = number

    @override
    def deliver(self, notice: Notice, budget_s: float) -> str:
        """Send the notice through Apprise."""
        services = list(apprise_services())
        if self._number >= len(services):
            raise UndeliveredError(f"no service is named. Set {APPRISE_URLS} to Apprise URLs, or set apprise = false.")
        service = services[self._number]
        try:
            import apprise
        except ImportError as error:
            raise UndeliveredError(f"Apprise is not installed. {install_hint('notify')}") from error
        # With a time-out of its own, Apprise sends in a pool of threads, for which Python waits when it exits.
        asset = apprise.AppriseAsset(app_id="craftkit-archive", async_mode=False, service_timeout=0)
        sender = apprise.Apprise(asset=asset)
        if not sender.add(service.url):
            raise UndeliveredError(f"{service.name} is not a service that Apprise knows. Check {APPRISE_URLS}.")
        kind = apprise.NotifyType.SUCCESS if notice.good else apprise.NotifyType.FAILURE
        if not sender.notify(notice.as_text(), notice.subject(), kind, body_format=apprise.NotifyFormat.TEXT):
            raise UndeliveredError(f"{service.name} did not take the notice. Check its URL in {APPRISE_URLS}.")
        return service.name


def apprise_services() -> Iterator[_Service]:
    """Yield the services that Apprise is to notify.

    Raises:
        RequestError: The secret cannot be read.
    """
    for number, url in enumerate((read_secret(APPRISE_URLS) or "").split(), 1):
        scheme = url.partition("://")[0] if "://" in url else ""
        shown = f"{scheme}://" if scheme.isascii() and scheme.isalnum() and len(scheme) < 20 else "its URL"
        yield _Service(url, f"service {number} ({shown}…)")
