"""Accepts known losses, so that they are not reported again until the PDF is good or the acceptance is revoked."""

from collections.abc import Iterator

from craftkit_archive.archive import Archive, Run
from craftkit_archive.catalog.rows import Selection
from craftkit_archive.errors import RequestError
from craftkit_archive.records import Record, Skipped

_NO_LOSS = ("ok", "unchecked", "disposed")


def accept_losses(archive: Archive, selection: Selection, reason: str) -> Iterator[Record]:
    """Accept that PDFs are lost, so that commands exit with 0 in spite of them.

    Only the present state of a PDF is accepted: if it was not stored, is stored later and then damaged, the damage is
    reported. An acceptance ends by itself when the PDF is fetched, repaired or found good.

    Args:
        archive: Open for writing.
        selection: The ids of the renders; those whose PDFs are good are skipped.
        reason: Why nothing can be done.

    Yields:
        An `Acknowledgement` for each that is accepted; a `Skipped` for each that cannot be; at last the `Summary` with
        the counts accepted and refused, which is `incomplete` if any was refused.

    Raises:
        RequestError: No reason or no ids are given.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise RequestError("An acceptance needs a reason. Pass --reason TEXT.")
    if selection.render_ids is None:
        raise RequestError("Name the renders whose loss is accepted. Pass --ids FILE.")
    with archive.run("accept", {"ids": len(selection.render_ids), "reason": reason}) as run:
        run.counts.update({"accepted": 0, "refused": 0})
        for part in selection.parts():
            ids = part.render_ids or ()
            states = archive.catalog.states_of(ids)
            lost = [render_id for render_id in ids if (states.get(render_id) or "ok") not in _NO_LOSS]
            with archive.catalog.transaction():
                archive.catalog.acknowledge(lost, reason, archive.now())
                if lost:
                    archive.record_event("accept", {"accepted": len(lost)}, run=run.id, reason=reason)
            for render_id in ids:
                if render_id not in lost:
                    run.counts["refused"] += 1
                    yield Skipped(render_id, "", _refusal(render_id, states))
            run.counts["accepted"] += len(lost)
            yield from archive.catalog.acknowledgements(lost)
        run.settle(incomplete=run.counts["refused"] > 0)
    yield run.summary(reason=reason)


def _refusal(render_id: str, states: dict[str, str | None]) -> str:
    if render_id not in states:
        return "no render has this id"
    if states[render_id] is None:
        return "nothing to accept: the render did not succeed, so it has no PDF"
    if states[render_id] == "disposed":
        return "nothing to accept: its PDF was disposed"
    return "nothing to accept: its PDF was good when it was last checked"


def revoke_acceptances(archive: Archive, selection: Selection) -> Iterator[Record]:
    """Revoke acceptances, so that the losses are reported again.

    Yields:
        A `Skipped` for each id without one; at last the `Summary` with the counts revoked and unknown.

    Raises:
        RequestError: No ids are given.
    """
    if selection.render_ids is None:
        raise RequestError("Name the renders whose acceptance is revoked. Pass --ids FILE.")
    with archive.run("accept --revoke", {"ids": len(selection.render_ids)}) as run:
        run.counts.update({"revoked": 0, "unknown": 0})
        for part in selection.parts():
            ids = part.render_ids or ()
            known = {one.render_id for one in archive.catalog.acknowledgements(ids)}
            with archive.catalog.transaction():
                archive.catalog.end_acknowledgements(ids)
                if known:
                    archive.record_event("accept --revoke", {"revoked": len(known)}, run=run.id)
            run.counts["revoked"] += len(known)
            for render_id in ids:
                if render_id not in known:
                    run.counts["unknown"] += 1
                    yield Skipped(render_id, "", "its loss was not accepted")
        run.settle(incomplete=run.counts["unknown"] > 0)
    yield run.summary()


def list_acceptances(archive: Archive) -> Iterator[Record]:
    """Yield every `Acknowledgement` in the order of render ids, and at last the `Summary`."""
    run = Run(None, "accept --list")
    run.counts["accepted"] = 0
    for one in archive.catalog.acknowledgements(None):
        run.counts["accepted"] += 1
        yield one
    yield run.summary()
