"""What each message means and what to do: rows of docs/messages.md, by the id that JSON and HTTP have for it."""

from collections.abc import Iterator
from typing import get_args

import cli
from craftkit_archive import errors
from craftkit_archive.proof.chain import Problem
from craftkit_archive.records import OUTCOME_CODES, Verdict
from craftkit_archive.states import STATES
from server.errors import ANSWERS, STATUSES

ERRORS = {
    "RequestError": "Read what the message says about the option or name. `COMMAND --help` ends with examples.",
    "NoArchiveError": "Name the archive with `--archive` or `CRAFTKIT_ARCHIVE`, or make one with `init`.",
    "LockedError": "The message names the command that is writing. Wait for it, or end it, and run yours again.",
    "CatalogNewerError": "Install the version that wrote it, or a newer one.",
    "CatalogDamagedError": "`restore` a backup, or make the catalog again with `rebuild`: [Recovery](recovery.md).",
    "StoreOfflineError": "Mount the disk, or correct the address of the bucket or source. Nothing is called missing meanwhile.",
    "StoreMismatchError": "Another archive's store is in its place. Mount the right one; `doctor` says which is expected.",
    "AssetKeyError": "Shorten or correct the asset key or the render id at the source, import it, and `fetch` again.",
    "AssetExistsError": "Other bytes are stored already, and stay. `verify --ids` says which are right; then `repair`.",
    "AssetMissingError": "`verify` to have it recorded, then `repair SOURCE`.",
    "AssetUnreadableError": "Look at the disk's own messages (`dmesg`), then `verify` again; if it stays so, `repair SOURCE`.",
    "AssetUnavailableError": "Restore the object from the archive tier, or ask for the right to read it, and `fetch` again.",
    "AssetDamagedError": "`repair SOURCE`.",
    "NoSpaceError": "Free some space, memory or open files (`ulimit -n`), then run the command again: it does the rest.",
    "NotWritableError": "Correct owner and mode of the path that is named, or mount it for writing, then run the command again.",
    "RemoteError": "Look at the service's own state. What was done stays; run the command again later.",
    "UnauthorizedError": "Give a key that is valid: `keys list` shows which are, `keys create` makes one.",
    "ForbiddenError": "The project is deleted. Import it again if it is back at Craftkit, or use another project's key.",
    "RenderNotFoundError": "The render is unknown or another project's. `renders list --search` says whose it is.",
    "RenderConflictError": "It has no PDF yet, or none is stored: `renders list --not-stored`, then `fetch SOURCE`.",
}
OUTCOMES = {
    "ok": "Nothing.",
    "problems": "The lines above the last one name what is wrong; the last one says what to run next.",
    "incomplete": "Look at what was skipped, not stored or unreadable: `renders list --not-stored`, `findings list`.",
    "limited": "Nothing: the next `verify --due` goes on where it stopped.",
    "interrupted": "Run it again: what was done is recorded.",
}
VERDICTS = {
    "ok": "Nothing. A note says what is odd about a PDF that is as it was stored.",
    "missing": "The file is gone: `repair SOURCE`.",
    "wrong-size": "It was cut off or grew: `repair SOURCE`.",
    "wrong-digest": "Bytes changed: `repair SOURCE`, and look at the disk.",
    "empty": "The file has no bytes: `repair SOURCE`.",
    "truncated": "The end of the PDF is missing: `repair SOURCE`; if it arrived so, render it again.",
    "not-a-pdf": "Often an error page under a PDF's name: `repair SOURCE`; if it arrived so, render it again.",
    "odd": "It does not look like a whole PDF, and nothing vouches for it: get it from a better source, or `fetch --accept-odd`.",
    "not-a-file": "A directory or link is in its place. Move it away, then `repair SOURCE`.",
    "malformed": "No PDF reader opens it: `repair SOURCE`; if it arrived so, render it again.",
    "unreadable": "The disk did not give the bytes: look at the disk, then `verify --failed`.",
    "unavailable": "The service does not give them now: restore them from its archive tier, then `verify --failed`.",
    "unverified": "Nothing says what the bytes should be: `fetch SOURCE` from where digests are, or accept it.",
    "orphan": "A file that no render claims, called extra: import the renders that it belongs to, or move it away.",
    "unrecorded": "Bytes are there that are not recorded: `fetch` without a source checks and records them.",
}
WARNINGS = {
    "slug-twice": "Two projects share a slug: name them by their ids from now on, or correct the slug at Craftkit.",
    "unknown-project": "Renders or keys are of projects that are not there: `import projects`.",
    "audit-log": "The audit log was brought to the same end as the catalog. `audit verify` proves it.",
    "not-listed": "The store could not be listed after a `restore`: run `verify`.",
    "render-not-in-backup": "Files are newer than the backup: import the renders, then `fetch` without a source.",
    "pdf-not-in-backup": "PDFs are newer than the backup: `fetch` without a source.",
    "key-alive-again": "Keys that were revoked work again: `keys revoke` each.",
    "project-alive-again": "Projects that were deleted are back: `import projects`.",
    "key-gone": "Keys that were made since the backup are gone: `keys create` new ones.",
    "not-compared": "Nothing says which keys were revoked since: `import keys`, and look at `keys list`.",
}
FAULTS = {
    "malformed": "A line is not an event: the file was changed by hand. Compare it with a copy.",
    "changed": "An event is not as it was written. Compare it with a copy, and find out who can write there.",
    "misplaced": "An event is not where its number belongs: the file was assembled again. Compare it with a copy.",
    "unchained": "An event does not continue the one before: something was put in or taken out. Compare it with a copy.",
    "differs": "File and table differ in an event. A copy says which is right.",
    "missing": "Events are only in the table. The next command that writes brings them into the file.",
    "added": "Events are only in the file: an older catalog was put back. The next command that writes takes them over.",
    "behind": "A command was killed before it wrote its lines. The next command that writes adds them.",
    "cut": "The end of the file is missing. The next command that writes adds it from the table, and says so.",
    "forked": "Catalog and file were each used without the other. The head of a later event, given to `audit verify --head`, settles it.",
    "head": "The event that was noted is not in the log, or is another: the log was rewritten. Ask whoever can write to it.",
    "access-log": "A recorded access log is missing or was changed: bring it back from a copy.",
}
CODES = {
    "bad_request": "Correct what `issues` names: a parameter, the path, or a header.",
    "unauthorized": "Send `Authorization: Bearer KEY` with a valid key.",
    "invalid_credentials": "The same, on the older `/v1/embed` route.",
    "forbidden": "The key's project is deleted; use another project's key.",
    "not_found": "No such render in the key's project. Another project's render looks the same.",
    "method_not_allowed": "Use one of the methods that `Allow` names.",
    "conflict": "The render has not succeeded, or its PDF is not stored; the message has its status.",
    "precondition_failed": "The PDF is another than the one that `If-Match` names.",
    "range_not_satisfiable": "Ask for a range within the size that `Content-Range` names.",
    "internal": "The PDF is damaged or could not be read: `verify`, then `repair SOURCE`. The log has the reason.",
    "not_ready": "The catalog, the store or the log of the server cannot be used; the message says which.",
}


def tables() -> Iterator[str]:
    """Yield the lines of the page's tables."""
    yield from _heading("Errors", "What stops a command. `--json` has the id as `error`.", "id", "code", "means", "do")
    for leaf in errors.leaves():
        yield _row(leaf.__name__, cli.EXIT_CODES[leaf], _sentence(leaf.__doc__), ERRORS[leaf.__name__])
    yield from _heading("Outcomes", "How a command ended. `--json` has them as `outcome`.", "id", "code", "do")
    for outcome, code in OUTCOME_CODES.items():
        yield _row(outcome, code, OUTCOMES[outcome])
    words = "What a check says about one PDF; a finding has it as `verdict`, and the state that it means."
    yield from _heading("Verdicts", words, "id", "state", "do")
    for verdict in get_args(Verdict):
        yield _row(verdict, STATES.get(verdict, "damaged"), VERDICTS[verdict])
    words = "What an import let in, or a restored catalog does not know. `--json` has them as `warning`."
    yield from _heading("Warnings", words, "id", "do")
    for warning, what in WARNINGS.items():
        yield _row(warning, what)
    words = "What `audit verify` finds. `--json` has them as `problem`; [Records](records.md) says more."
    yield from _heading("Faults of the audit log", words, "id", "do")
    for problem in get_args(Problem):
        yield _row(problem, FAULTS[problem])
    words = "What the server answers: `error.code` in the body."
    yield from _heading("Answers of the server", words, "id", "status", "do")
    for code_name, status in STATUSES.items():
        leaves = [leaf.__name__ for leaf, answer in ANSWERS.items() if answer == code_name and code_name != "internal"]
        yield _row(code_name, status, CODES[code_name] + (f" ({', '.join(leaves)})" if leaves else ""))


def _heading(title: str, words: str, *columns: str) -> Iterator[str]:
    yield from ("", f"## {title}", "", words, "")
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"


def _row(name: str, *cells: object) -> str:
    return f"| `{name}` | {' | '.join(map(str, cells))} |"


def _sentence(docstring: str | None) -> str:
    """Return the first paragraph of a docstring."""
    return " ".join((docstring or "").split("\n\n")[0].split())
