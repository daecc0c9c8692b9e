"""Sends a notice through all outlets at once, within one time-out; a failure is returned as a sentence, not raised."""

import time
from collections.abc import Iterator, Sequence
from threading import Thread

from craftkit_archive.errors import ArchiveError
from craftkit_archive.notify.mail import Mail
from craftkit_archive.notify.message import Notice
from craftkit_archive.notify.outlets import (
    THREAD_PREFIX,
    AppriseService,
    Command,
    Outlet,
    Ping,
    UndeliveredError,
    Webhook,
    apprise_services,
)
from craftkit_archive.notify.settings import PING_URL, WEBHOOK_URL, Notify
from craftkit_archive.records import Diagnosis, Record, Summary
from craftkit_archive.secrets import is_given

# The part of the time-out that an outlet may use; the rest is left for its error message.
_BUDGET = 0.8


# The notice of a night that begins, which has nothing to report yet.
_BEGINNING = Notice(
    archive="", host="", outcome="started", exit_code=0, started_at="", finished_at="", sentence="the night begins"
)


def announce_start(notify: Notify) -> list[str]:
    """Notify the dead man's switch that a night begins.

    Returns:
        A sentence for each outlet that could not be reached; nothing is raised.
    """
    pings: list[Outlet] = [Ping(notify.ping, started=True)] if notify.ping or is_given(PING_URL) else []
    return _faults(notify, pings, _BEGINNING)


def announce_end(notify: Notify, notice: Notice, previous: str | None) -> list[str]:
    """Report how a night ended: always to the dead man's switch, to other outlets as `when` in the settings says.

    Args:
        notify: The settings.
        notice: How it ended.
        previous: The `state` of the last notice that reached all outlets; None if there was none. So a change that did
            not reach one of them is sent again the next night.

    Returns:
        A sentence for each outlet that could not be reached; nothing is raised.
    """
    everybody = outlets_of(notify)
    wanted = is_news(notify, notice, previous)
    return _faults(notify, [one for one in everybody if wanted or isinstance(one, Ping)], notice)


def is_news(notify: Notify, notice: Notice, previous: str | None) -> bool:
    """Return whether the setting `when` asks for this notice."""
    if notify.when == "change":
        return previous != notice.state
    return notify.when == "always" or not notice.good


def try_outlets(notify: Notify, notice: Notice) -> Iterator[Record]:
    """Send a notice through all outlets, whatever `when` says, to see whether it arrives.

    Yields:
        A `Diagnosis` for each outlet; at last the `Summary`, which has exit code 16 if one could not be reached.
    """
    outlets = outlets_of(notify)
    failed = 0
    for outlet, (reached, fault) in zip(outlets, _deliver(outlets, notice, notify.timeout_s), strict=True):
        failed += bool(fault)
        if fault:
            yield Diagnosis(outlet.name, "it did not arrive", fault, "not-delivered")
        else:
            yield Diagnosis(outlet.name, f"sent to {reached}")
    counts = {"sent": len(outlets) - failed, "failed": failed}
    if failed:
        yield Summary("notify test", "problems", exit_code=16, counts=counts)
    else:
        yield Summary("notify test", "ok", counts=counts)


def outlets_of(notify: Notify) -> list[Outlet]:
    """Return the outlets that the settings and the environment name."""
    outlets: list[Outlet] = []
    if notify.ping or is_given(PING_URL):
        outlets.append(Ping(notify.ping))
    if notify.webhook or is_given(WEBHOOK_URL):
        outlets.append(Webhook(notify.webhook))
    if notify.command:
        outlets.append(Command(notify.command))
    if notify.mail:
        outlets.append(Mail(notify.mail))
    if notify.apprise:
        outlets += [AppriseService(number) for number in range(_count_services())]
    return outlets


def _count_services() -> int:
    """Count the services for Apprise; at least 1, so that an outlet reports if there are none or the secret is bad."""
    try:
        return len(list(apprise_services())) or 1
    except ArchiveError:
        return 1


def _faults(notify: Notify, outlets: Sequence[Outlet], notice: Notice) -> list[str]:
    results = zip(outlets, _deliver(outlets, notice, notify.timeout_s), strict=True)
    return [f"Cannot notify by {outlet.name}: {fault}" for outlet, (_, fault) in results if fault]


class _Delivery(Thread):
    """One delivery, in a daemon thread that can be abandoned: a DNS query, for example, cannot be stopped."""

    def __init__(self, outlet: Outlet, notice: Notice, budget_s: float) -> None:
        super().__init__(name=THREAD_PREFIX + outlet.name, daemon=True)
        self.outlet = outlet
        self.reached = ""
        self.fault = ""
        self._notice = notice
        self._budget_s = budget_s

    def run(self) -> None:
        """Deliver, and keep the result."""
        try:
            self.reached = self.outlet.deliver(self._notice, self._budget_s)
        except (UndeliveredError, ArchiveError) as error:
            self.fault = str(error)
        except Exception as error:  # noqa: BLE001 - a fault of a library, or ours, must not cost a night
            # Without its text, which may contain what was sent.
            self.fault = f"it failed with {type(error).__name__}. Please report this."


def _deliver(outlets: Sequence[Outlet], notice: Notice, timeout_s: float) -> Iterator[tuple[str, str]]:
    """Deliver through all outlets at once; yield for each what was reached and the fault, one of them empty."""
    deadline = time.monotonic() + timeout_s
    deliveries = [_Delivery(outlet, notice, timeout_s * _BUDGET) for outlet in outlets]
    for delivery in deliveries:
        delivery.start()
    try:
        for delivery in deliveries:
            delivery.join(max(0.0, deadline - time.monotonic()))
            late = f"it did not answer within {timeout_s:g} s. Check that service." if delivery.is_alive() else ""
            yield delivery.reached, late or delivery.fault
    finally:
        for delivery in deliveries:
            if delivery.is_alive():
                delivery.outlet.abort()
