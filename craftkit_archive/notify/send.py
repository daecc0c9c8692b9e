"""Telling: everybody at once, within one time-out. What could not be reached is a sentence, and never stops a night."""

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

# The part of the time-out that an outlet has for itself; the rest is for saying what it waited for.
_BUDGET = 0.8


# A night that begins has nothing to say yet.
_BEGINNING = Notice(
    archive="", host="", outcome="started", exit_code=0, started_at="", finished_at="", sentence="the night begins"
)


def announce_start(notify: Notify) -> list[str]:
    """Tell the dead man's switch that a night begins.

    Returns:
        A sentence on each that could not be reached; nothing is raised.
    """
    pings: list[Outlet] = [Ping(notify.ping, started=True)] if notify.ping or is_given(PING_URL) else []
    return _faults(notify, pings, _BEGINNING)


def announce_end(notify: Notify, notice: Notice, previous: str | None) -> list[str]:
    """Report how a night ended: to the dead man's switch always, to the others as `when` says.

    Args:
        notify: Whom to notify.
        notice: How it ended.
        previous: The `state` of the last notice that reached everybody; None if there was none. So a change that could
            not reach somebody is sent again the next night.

    Returns:
        A sentence on each that could not be reached; nothing is raised.
    """
    everybody = outlets_of(notify)
    wanted = is_news(notify, notice, previous)
    return _faults(notify, [one for one in everybody if wanted or isinstance(one, Ping)], notice)


def is_news(notify: Notify, notice: Notice, previous: str | None) -> bool:
    """Say whether a notice is one that people want, as `when` says."""
    if notify.when == "change":
        return previous != notice.state
    return notify.when == "always" or not notice.good


def try_outlets(notify: Notify, notice: Notice) -> Iterator[Record]:
    """Send a notice to everybody, whatever `when` says, to see whether it arrives.

    Yields:
        A `Diagnosis` for each outlet; at last the `Summary`, which has exit code 16 if one was not reached.
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
    """Return whom a configuration and the environment name."""
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
    """Count the services for Apprise; where there are none, or none can be read, one outlet is to say so."""
    try:
        return len(list(apprise_services())) or 1
    except ArchiveError:
        return 1


def _faults(notify: Notify, outlets: Sequence[Outlet], notice: Notice) -> list[str]:
    results = zip(outlets, _deliver(outlets, notice, notify.timeout_s), strict=True)
    return [f"Cannot notify by {outlet.name}: {fault}" for outlet, (_, fault) in results if fault]


class _Delivery(Thread):
    """One delivery, in a thread that can be left behind: a resolver of names, for one, cannot be stopped."""

    def __init__(self, outlet: Outlet, notice: Notice, budget_s: float) -> None:
        super().__init__(name=THREAD_PREFIX + outlet.name, daemon=True)
        self.outlet = outlet
        self.reached = ""
        self.fault = ""
        self._notice = notice
        self._budget_s = budget_s

    def run(self) -> None:
        """Deliver, and keep what came of it."""
        try:
            self.reached = self.outlet.deliver(self._notice, self._budget_s)
        except (UndeliveredError, ArchiveError) as error:
            self.fault = str(error)
        except Exception as error:  # noqa: BLE001 - a fault of a library, or ours, must not cost a night
            # Not its text, which may hold what was sent.
            self.fault = f"it failed with {type(error).__name__}. Please report this."


def _deliver(outlets: Sequence[Outlet], notice: Notice, timeout_s: float) -> Iterator[tuple[str, str]]:
    """Deliver to all at once; yield for each what was reached, and why not."""
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
