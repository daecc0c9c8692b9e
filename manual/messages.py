"""What each message means and what to do: the pages of docs/messages/, by the id that JSON and HTTP have for it."""

from collections.abc import Iterator
from typing import NamedTuple, get_args

import cli
from craftkit_archive import errors
from craftkit_archive.proof.chain import Problem
from craftkit_archive.records import OUTCOME_CODES, DiagnosisProblem, RejectProblem, Verdict
from craftkit_archive.states import STATES
from server.errors import ANSWERS, STATUSES

ERRORS = {
    "RequestError": "Read what the message says about the option or name. `COMMAND --help` ends with examples.",
    "NoArchiveError": "Name the archive with `--archive` or `CRAFTKIT_ARCHIVE`, or make one with `init`.",
    "LockedError": "The message names the command that is writing. Wait for it or end it, then run yours again.",
    "CatalogNewerError": "Install the version that wrote it, or a newer one.",
    "CatalogDamagedError": "`restore` a backup, or recreate the catalog with `rebuild`: [Recovery](../recovery.md).",
    "StoreOfflineError": "Mount the disk, or correct the address of the bucket or source. Until then, no PDF is reported as missing.",
    "StoreMismatchError": "Another archive's store is in its place. Mount the right one; `doctor` says which is expected.",
    "AssetKeyError": "Shorten or correct the asset key or the render id at the source, import it, and `fetch` again.",
    "AssetExistsError": "Other bytes are stored under this key, and are kept. `verify --ids` says which are right; then `repair`.",
    "AssetMissingError": "Run `verify`, which records it, then `repair SOURCE`.",
    "AssetUnreadableError": "Look at the disk's own messages (`dmesg`), then `verify` again; if the error remains, `repair SOURCE`.",
    "AssetUnavailableError": "Restore the object from the archive tier, or ask for the right to read it, and `fetch` again.",
    "AssetDamagedError": "`repair SOURCE`.",
    "NoSpaceError": "Free some space, memory or open files (`ulimit -n`), then run the command again: it does the rest.",
    "NotWritableError": "Correct owner and mode of the path in the message, or mount it for writing, then run the command again.",
    "RemoteError": "Check the status of the service. What was done is kept; run the command again later.",
    "UnauthorizedError": "Use a valid key: `keys list` shows which keys are valid, `keys create` creates one.",
    "ForbiddenError": "The project was deleted. Import it again if Craftkit has it again, or use another project's key.",
    "RenderNotFoundError": "The render is unknown, or belongs to another project: `renders list --search` shows which.",
    "RenderConflictError": "It has no PDF yet, or none is stored: `renders list --not-stored`, then `fetch SOURCE`.",
}
OUTCOMES = {
    "ok": "Nothing.",
    "problems": "The lines above the last one name what is wrong; the last one says what to run next.",
    "incomplete": "Look at what was skipped, not stored or unreadable: `renders list --not-stored`, `findings list`.",
    "limited": "Nothing: the next `verify --due` continues where this one stopped.",
    "interrupted": "Run it again: what was done is recorded.",
}
VERDICTS = {
    "ok": "Nothing. A note may say what is odd about a PDF that is as it was stored.",
    "missing": "The file is missing: `repair SOURCE`.",
    "wrong-size": "It was cut off or grew: `repair SOURCE`.",
    "wrong-digest": "Bytes changed: `repair SOURCE`, and look at the disk.",
    "empty": "The file has no bytes: `repair SOURCE`.",
    "truncated": "The end of the PDF is missing: `repair SOURCE`; if it arrived like that, render it again.",
    "not-a-pdf": "Often an error page under a PDF's name: `repair SOURCE`; if it arrived like that, render it again.",
    "odd": "It does not look like a whole PDF, and nothing vouches for it: fetch it from a better source, or use `fetch --accept-odd`.",
    "not-a-file": "A directory or link is in its place. Move it away, then `repair SOURCE`.",
    "malformed": "No PDF reader opens it: `repair SOURCE`; if it arrived like that, render it again.",
    "unreadable": "The disk did not return the bytes: check the disk, then `verify --failed`.",
    "unavailable": "The service does not deliver the bytes now: restore them from its archive tier, then `verify --failed`.",
    "unverified": "Nothing says what the bytes should be: `fetch SOURCE` from a source with digests, or `accept` it.",
    "orphan": "A file that no render claims, called extra: import the renders that it belongs to, or move it away.",
    "unrecorded": "The file is in the store but not recorded: `fetch` without a source checks and records it.",
}
REJECTS = {
    "missing-field": (
        "The record lacks a field that every record of its kind has.",
        "Add the field that the message names. For a missing project, `--project ID` names it for all records that have none.",
    ),
    "wrong-value": (
        "A field has the wrong type or form, such as a time that does not exist or an unknown status.",
        "Correct the field; the message says what is expected and what was found.",
    ),
    "wrong-key": (
        "The API key is not a project's key, is cut short, or does not match the hash beside it. Files of rejects contain only the beginnings of keys, so keys cannot be imported from them.",
        "Import the key from its original file, or give only `key_hash`: the SHA-256 of the whole key.",
    ),
    "wrong-asset-key": (
        "The path of the PDF would leave the store, is too long for any file system, or lies in another project's folder.",
        "Correct `asset_key` (or `asset_url`) at the source. Leave both out if the PDF is stored under the usual path.",
    ),
    "given-twice": (
        "The record has a field twice, so it is unclear which value counts; `createdAt` and `created_at` are the same field.",
        "Remove one of the two.",
    ),
    "not-an-object": (
        "The file has a number, a text or a list where a record should be.",
        'Write each record as a JSON object: `{"id": …}`.',
    ),
    "not-json": (
        "The line, or the rest of the file, is not JSON.",
        "Correct it at the place that the message names. If the file is one JSON document, nothing after that place was read: import the file again.",
    ),
    "not-utf-8": (
        "The bytes are not UTF-8 text.",
        "Save the file as UTF-8 (`iconv -t UTF-8`), or as UTF-16 with a byte-order mark.",
    ),
    "too-large": (
        "A record has more than 16 MiB, more than 100 levels of nesting, or a number with too many digits.",
        "Remove the large field. If it is worth keeping, write it as text.",
    ),
    "cut-short": (
        "The file ends too early: a download broke off, or somebody was still writing it.",
        "Get the whole file and import it again. The records before its end were imported.",
    ),
    "no-records": (
        "The file is empty, or not in a form that an import can read.",
        "Name another file, or export it again in the way that the message shows.",
    ),
    "list-before-id": (
        "An object has a list named like a table (such as `renders`) before its own `id`, so it looks like a wrapper of records.",
        "Put `id` first in the record, or write one record on each line (NDJSON).",
    ),
    "bad-table": (
        "The header of the table does not name `id`, names a column twice, or a row does not have as many cells as the header.",
        "Correct the header or the row. A separator or line break within a cell needs quotes around the cell.",
    ),
    "other-project": (
        "The id belongs to another project already. A record never moves.",
        "Correct the id or the project at the source.",
    ),
    "known-id": (
        "The id exists already, and `--on-duplicate fail` was given.",
        "Nothing, if that is what you wanted to know. `--on-duplicate update` or `skip` accepts it.",
    ),
    "other-key": (
        "The id belongs to an API key with another hash.",
        "Give a new key a new id, and import the old one as revoked.",
    ),
    "key-of-another": ("The same key is recorded under another id.", "Remove one of the two records."),
    "asset-key-of-another": (
        "Another render already has this path for its PDF.",
        "Give each render its own `asset_key` at the source.",
    ),
    "below-another-pdf": (
        "The path of the PDF has another render's PDF as one of its folders; no disk can hold both.",
        "Correct the `asset_key` of one of them at the source.",
    ),
    "not-as-stored": (
        "The size or digest that the record declares differs from that of the stored PDF, which was checked.",
        "Find out which is right. If it is the stored one, correct the record; otherwise `verify --ids`, then `repair SOURCE`.",
    ),
}
DOCTOR = {
    "program-changed": (
        "A file of the program differs from the one that was installed.",
        "Reinstall the program, in a separate virtual environment.",
    ),
    "catalog-damaged": (
        "SQLite finds the catalog damaged.",
        "`restore` a backup, or recreate the catalog with `rebuild`: [Recovery](../recovery.md).",
    ),
    "log-large": (
        "SQLite's log beside the catalog has grown beyond 1 GiB, because some command has been reading all the time.",
        "End that command, then run any other.",
    ),
    "totals-wrong": (
        "The totals that `status` shows differ from a full count. Another program may have written to the catalog.",
        "Run `verify --level size` on the whole archive: it recounts the totals.",
    ),
    "audit-log-broken": (
        "The last events of the audit log are not as they were written.",
        "`audit verify` says where. Keep `archive.db` and `audit.ndjson` as they are until you know why.",
    ),
    "audit-log-behind": (
        "The catalog has events that are not in the file of the audit log yet. Nothing is wrong.",
        "Nothing: the next command that writes adds them.",
    ),
    "catalog-readable": (
        "Other users of the machine can read the catalog, with its hashes of keys.",
        "`chmod 600` the file in the message.",
    ),
    "not-writable": ("You cannot write to the archive.", "Run commands as the user who owns it."),
    "store-unusable": (
        "The store is not mounted, cannot be reached, or belongs to another archive.",
        "Do what the message says: mount it, or correct its address. Until then, no PDF is reported as missing.",
    ),
    "store-not-writable": (
        "You cannot write to the store.",
        "Make it writable for you, or run commands as the user who owns it.",
    ),
    "names-not-examined": (
        "It was not tested whether the store's file system distinguishes similar names, because you cannot write there.",
        "Run `doctor` as the user who owns the store.",
    ),
    "names-collide": (
        "The store's file system treats two different names, such as `A.pdf` and `a.pdf`, as the same.",
        "Move the store to a file system that distinguishes them, such as ext4, XFS or ZFS.",
    ),
    "space-low": (
        "Less than 1 GB, or less than 2 % of the disk, is free.",
        "Free some space, or move the archive to a larger disk.",
    ),
    "clock-behind": (
        "The catalog contains times in the future: the clock is wrong now, or was wrong when they were recorded.",
        "Set the clock (`timedatectl set-ntp true`). Checks that are dated in the future count as due.",
    ),
    "runs-killed": (
        "Commands were killed before they ended.",
        "Nothing: the next run of the same command continues the work, or has done so.",
    ),
    "cluster-unreachable": (
        "The scheduler of the cluster does not answer.",
        "Check its address, and whether it is running.",
    ),
    "cluster-empty": ("The cluster has no workers.", "Start some: `dask worker ADDRESS`."),
    "worker-unfit": (
        "A worker has another version of the program, or cannot read or write the store.",
        "Do what the message says on that machine, and restart its worker.",
    ),
    "pdfs-damaged": ("The last checks found PDFs damaged or unreadable.", "`report` says which; then `repair SOURCE`."),
    "pdfs-unverified": (
        "Nothing is recorded to compare some PDFs with.",
        "`report` says which; `fetch SOURCE` from a source with digests, or `accept` them.",
    ),
    "disposals-unfinished": (
        "Disposals were interrupted.",
        "Run `dispose --due --reason TEXT`: it finishes them first.",
    ),
    "not-delivered": (
        "A notification did not arrive (`notify test`).",
        "Do what the message says: check the address, the network and the secrets ([Notify](../notify.md#secrets)).",
    ),
}
WARNINGS = {
    "slug-twice": "Two projects share a slug: use their ids from now on, or correct the slug at Craftkit.",
    "unknown-project": "Renders or keys belong to projects that the catalog does not have: `import projects`.",
    "audit-log": "The file of the audit log and the catalog differed, and were brought to the same state. Check it with `audit verify`.",
    "not-listed": "The store could not be listed after a `restore`: run `verify`.",
    "render-not-in-backup": "Files are newer than the backup: import the renders, then `fetch` without a source.",
    "pdf-not-in-backup": "PDFs are newer than the backup: `fetch` without a source.",
    "key-alive-again": "Keys that were revoked work again: `keys revoke` them.",
    "project-alive-again": "Projects that were deleted are back: `import projects`.",
    "key-gone": "Keys that were created since the backup are gone: `keys create` new ones.",
    "not-compared": "It is not known which keys were revoked since the backup: `import keys`, and check `keys list`.",
}
FAULTS = {
    "malformed": "A line is not an event: the file was changed by hand. Compare it with a copy.",
    "changed": "An event is not as it was written. Compare it with a copy, and find out who can write there.",
    "misplaced": "An event is not where its number belongs: lines of the file were moved. Compare it with a copy.",
    "unchained": "An event does not continue the one before: an event was inserted or removed. Compare it with a copy.",
    "differs": "File and table differ in an event. A copy shows which is right.",
    "missing": "Events are only in the table. The next command that writes adds them to the file.",
    "added": "Events are only in the file: an older catalog was put back. The next command that writes adds them to the table.",
    "behind": "A command was killed before it wrote its lines. The next command that writes adds them.",
    "cut": "The end of the file is missing. The next command that writes restores it from the table, and reports it.",
    "forked": "Catalog and file were each used without the other. The head of a later event, given to `audit verify --head`, settles it.",
    "head": "The noted event is not in the log, or was changed: the log was rewritten. Ask those who can write to it.",
    "access-log": "A recorded access log is missing or was changed: restore it from a copy.",
}
CODES = {
    "bad_request": "Correct what `issues` names: a parameter, the path, or a header.",
    "unauthorized": "Send `Authorization: Bearer KEY` with a valid key.",
    "invalid_credentials": "The same, on the older `/v1/embed` route.",
    "forbidden": "The key's project was deleted; use another project's key.",
    "not_found": "The key's project has no such render. Renders of other projects get the same answer.",
    "method_not_allowed": "Use one of the methods that `Allow` names.",
    "conflict": "The render has not succeeded, or its PDF is not stored; the message has its status.",
    "precondition_failed": "The PDF is not the one that `If-Match` names.",
    "range_not_satisfiable": "Ask for a range within the size that `Content-Range` names.",
    "internal": "The PDF is damaged or could not be read: `verify`, then `repair SOURCE`. The log has the reason.",
    "not_ready": "The server cannot use the catalog, the store or its log; the message says which.",
}


class Entry(NamedTuple):
    """What a page says about one id: facts such as its exit code, what happened, and what to do."""

    name: str
    facts: str
    happened: str
    do: str


class Group(NamedTuple):
    """A page of ids: its title, where programs find the ids, and what each means."""

    title: str
    words: str
    entries: list[Entry]


def groups() -> dict[str, Group]:
    """Return the pages by their names in docs/messages/."""
    return {
        "errors": Group(
            "Errors",
            "What stops a command. `--json` has the id as `error`.",
            [
                Entry(
                    leaf.__name__, f"Exit code {cli.EXIT_CODES[leaf]}.", _sentence(leaf.__doc__), ERRORS[leaf.__name__]
                )
                for leaf in errors.leaves()
            ],
        ),
        "outcomes": Group(
            "Outcomes",
            "How a command ended. `--json` has the id as `outcome` of the summary.",
            [Entry(name, f"Exit code {code}.", "", OUTCOMES[name]) for name, code in OUTCOME_CODES.items()],
        ),
        "verdicts": Group(
            "Verdicts",
            "What a check says about one PDF. A finding has the id as `verdict`, and people see it at the beginning of its line.",
            [Entry(one, f"State: {STATES.get(one, 'damaged')}.", "", VERDICTS[one]) for one in get_args(Verdict)],
        ),
        "rejects": Group(
            "Rejects",
            "Why an import refuses a record. `--json` and files of `--rejects` have the id as `problem`; people see it in brackets at"
            " the end of the line. Correct these records and import them again; the others were imported, unless `--all-or-nothing` was given.",
            [Entry(name, "", *REJECTS[name]) for name in get_args(RejectProblem)],
        ),
        "warnings": Group(
            "Warnings",
            "What an import accepted although it may cause problems, and what a restored catalog does not know. `--json` has the id as `warning`.",
            [Entry(name, "", "", words) for name, words in WARNINGS.items()],
        ),
        "doctor": Group(
            "What the doctor finds",
            "What `doctor` and `notify test` find. Each line begins with `good` or `FIX`. `--json` has the id as `problem`; people see it in brackets at the"
            " end of the line. A line that is good has one too if it contains something worth knowing.",
            [Entry(name, "", *DOCTOR[name]) for name in get_args(DiagnosisProblem)],
        ),
        "audit-log": Group(
            "Faults of the audit log",
            "What `audit verify` finds. `--json` has the id as `problem`; [Records](../records.md) says more.",
            [Entry(name, "", "", FAULTS[name]) for name in get_args(Problem)],
        ),
        "server": Group(
            "Answers of the server",
            "What the server answers: `error.code` in the body.",
            [Entry(name, f"HTTP status {status}.", _errors_of(name), CODES[name]) for name, status in STATUSES.items()],
        ),
    }


def _errors_of(code: str) -> str:
    leaves = [leaf.__name__ for leaf, answer in ANSWERS.items() if answer == code and code != "internal"]
    return f"In Python, {', '.join(f'`{name}`' for name in leaves)}." if leaves else ""


def page(name: str) -> Iterator[str]:
    """Yield the lines of one page of docs/messages/."""
    group = groups()[name]
    yield from (f"# {group.title}", "", group.words)
    for entry in group.entries:
        yield from ("", f"## `{entry.name}`", "")
        yield " ".join(filter(None, (entry.facts, entry.happened, entry.do)))


def index() -> Iterator[str]:
    """Yield the lines of docs/messages.md: the pages, and every id with the pages that have it."""
    places: dict[str, list[str]] = {}
    yield from ("| page | what its ids are |", "| --- | --- |")
    for name, group in groups().items():
        yield f"| [{group.title}](messages/{name}.md) | {group.words.partition('. ')[0].removesuffix('.')} |"
        for entry in group.entries:
            link = f"[{group.title}](messages/{name}.md#{entry.name.lower()})"
            places.setdefault(entry.name, []).append(link)
    yield from ("", "## All ids", "", "| id | page |", "| --- | --- |")
    for one in sorted(places, key=str.lower):
        yield f"| `{one}` | {', '.join(places[one])} |"


def _sentence(docstring: str | None) -> str:
    """Return the first paragraph of a docstring."""
    return " ".join((docstring or "").split("\n\n")[0].split())
