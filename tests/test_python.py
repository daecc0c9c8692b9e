"""The package as a Python program uses it: its names, its examples, and programs of any form that start workers."""

import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import craftkit_archive
from craftkit_archive import Archive, RequestError, Selection, Summary
from craftkit_archive.records import OUTCOME_CODES, Outcome
from tests.worlds import ROOT, World, fill, pdf, program, projects, put, render, summary_of, write_ndjson

COUNT = 250  # enough for two workers
OPERATIONS = [
    name for name in craftkit_archive.__all__ if inspect.isfunction(getattr(craftkit_archive, name)) and "_" in name
]

SCRIPT = """
import sys
from pathlib import Path

from craftkit_archive import *

with Path("ran.txt").open("a") as ran:
    ran.write(f"{__name__}\\n")
with Archive("archive") as archive:
    for operation in (verify_assets(archive, jobs=2, level="pdf"), export_assets(archive, "out", jobs=2)):
        *_, summary = operation
        print(summary.outcome, summary.exit_code, summary.counts)
*_, summary = check_export("out", jobs=2)
print(summary.outcome, summary.counts["checked"])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an archive that is large enough for workers."""
    folder = tmp_path_factory.mktemp("script")
    fill(folder, count=COUNT).archive.catalog.close()
    (folder / "script.py").write_text(SCRIPT)
    return folder


# How a program can come to Python: as a file, by a relative name, as a module, from standard input, as a text, and in a
# session such as a notebook's, whose main module has no file.
FORMS: dict[str, tuple[list[str], str | None]] = {
    "file": (["script.py"], None),
    "module": (["-m", "script"], None),
    "stdin": (["-"], SCRIPT),
    "text": (["-c", SCRIPT], None),
    "session": (
        [
            "-c",
            "import code, sys; code.InteractiveInterpreter(vars(sys.modules['__main__'])).runcode(sys.stdin.read())",
        ],
        SCRIPT,
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_a_program_without_a_guard_runs_once(place: Path, form: str) -> None:
    words, given = FORMS[form]
    (place / "ran.txt").unlink(missing_ok=True)
    with Archive(place / "archive") as archive:
        before = len(archive.catalog.last_runs(1000))
    done = subprocess.run([sys.executable, *words], cwd=place, input=given, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    verified, exported, checked = done.stdout.splitlines()
    assert verified == f"ok 0 {{'checked': {COUNT}, 'ok': {COUNT}}}"
    assert exported.startswith("ok 0 ")
    assert checked.startswith("ok ")
    assert (place / "ran.txt").read_text() == "__main__\n"
    with Archive(str(place / "archive")) as archive:
        assert len(archive.catalog.last_runs(1000)) == before + 1


def test_the_callers_own_processes_are_left_alone() -> None:
    script = """
import multiprocessing, time
from craftkit_archive.parallel.batches import never
from craftkit_archive.parallel.pool import processes
if __name__ == "__main__":
    own = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    own.start()
    with processes(1) as executor:
        executor.submit(never).result()
        executor.abandon()
    print(own.is_alive())
    own.kill()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_callers_own_workers_still_import_its_main_module(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("""
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from craftkit_archive.parallel.pool import processes

def double(number):
    return 2 * number

if __name__ == "__main__":
    with processes(1) as ours, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as theirs:
        print(theirs.submit(double, 21).result(), ours.submit(len, "four").result())
""")
    done = subprocess.run([sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("42 4\n", "")


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_public_names_are_sorted_and_all_there() -> None:
    names = craftkit_archive.__all__
    assert names == sorted(names)
    assert {name for name in names if name != "__version__"} == set(craftkit_archive._HOMES)
    assert set(names) <= set(dir(craftkit_archive))
    for name in names:
        assert getattr(craftkit_archive, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        craftkit_archive.nothing  # noqa: B018


def test_the_types_are_those_that_the_checker_sees() -> None:
    """What the type checker reads in `if TYPE_CHECKING` is what is loaded."""
    source = (ROOT / "craftkit_archive" / "__init__.py").read_text().replace("if TYPE_CHECKING:", "if True:")
    seen: dict[str, Any] = {"__name__": "craftkit_archive"}
    exec(compile(source, "__init__", "exec"), seen)
    assert {name: seen[name] for name in craftkit_archive._HOMES} == {
        name: getattr(craftkit_archive, name) for name in craftkit_archive._HOMES
    }


def test_importing_the_package_loads_nothing_else() -> None:
    script = (
        "import sys, craftkit_archive; print([name for name in sys.modules if name.startswith('craftkit_archive.')])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["Archive", *OPERATIONS])
def test_every_operation_has_an_example_that_works(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _set_up(world)
    monkeypatch.chdir(world.folder)
    found = getattr(craftkit_archive, name)
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(found) or "", {}, name, None, 0)
    assert examples.examples, f"{name} has no example"
    _run(examples)


def test_the_page_about_python_works_from_top_to_bottom(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _set_up(world)
    monkeypatch.chdir(world.folder)
    page = (ROOT / "docs" / "python.md").read_text()
    text = "\n".join(part.partition("```")[0] for part in page.split("```python\n")[1:])
    _run(doctest.DocTestParser().get_doctest(text, {}, "docs/python.md", None, 0))
    for name in craftkit_archive.__all__:
        assert f"`{name}`" in page, f"docs/python.md does not name {name}"


def _set_up(world: World) -> None:
    """Lay out the folder that the examples speak of: `archive`, `bucket`, `projects.ndjson`, `renders.ndjson`."""
    write_ndjson(world.folder / "projects.ndjson", projects())
    write_ndjson(world.folder / "renders.ndjson", [render(number) for number in range(6)])
    put(world.bucket, render(5)["asset_key"], pdf("render 5"))


def _run(examples: doctest.DocTest) -> None:
    said: list[str] = []
    examples.globs["__name__"] = "__main__"
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        examples, out=said.append
    )
    assert result.failed == 0, "".join(said)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["done", "Succeeded", "", "succeeded "])
def test_unknown_statuses_are_refused(archive: Archive, status: str) -> None:
    known = "Use one of queued, rendering, succeeded, failed, cancelled"
    with pytest.raises(RequestError, match=known):
        archive.select(statuses=[status])
    with pytest.raises(RequestError, match=known):
        Selection(statuses=(status,))


@pytest.mark.parametrize(
    ("call", "known"),
    [
        ("import_records(archive, 'render', ['x.json'])", "projects, keys, renders"),
        ("import_records(archive, 'renders', ['x.json'], form='xml')", "json, ndjson, csv"),
        ("import_records(archive, 'renders', ['x.json'], on_duplicate='replace')", "update, skip, fail"),
        ("verify_assets(archive, level='sha256')", "size, digest, pdf"),
        ("export_assets(archive, 'out', options=ExportOptions(form='rar'))", "dir, zip, tar, bagit"),
    ],
)
def test_unknown_words_are_refused(archive: Archive, call: str, known: str) -> None:
    names = {name: getattr(craftkit_archive, name) for name in craftkit_archive.__all__}
    with pytest.raises(RequestError, match=f"Use one of {known}"):
        list(eval(call, names | {"archive": archive}))
    assert not archive.catalog.last_runs(10)


def test_a_text_is_one_name_and_not_its_letters(world: World) -> None:
    archive = world.archive
    assert archive.select(projects="northwind", statuses="succeeded") == archive.select(
        projects=["northwind"], statuses=("succeeded",)
    )
    (world.folder / "ids").write_text("a\nb\n")
    assert archive.select(ids=str(world.folder / "ids")).render_ids == ("a", "b")


def test_an_archive_is_made_and_opened_by_a_text(tmp_path: Path) -> None:
    Archive.create(str(tmp_path / "new")).catalog.close()
    with Archive(str(tmp_path / "new")) as archive:
        assert archive.path == tmp_path / "new"


# --- outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_a_summary_carries_its_exit_code(outcome: Outcome) -> None:
    summary = Summary(command="verify", outcome=outcome)
    assert summary.exit_code == OUTCOME_CODES[outcome]
    assert msgspec.json.decode(msgspec.json.encode(summary))["exit_code"] == OUTCOME_CODES[outcome]
    assert Summary(command="serve", outcome="interrupted", exit_code=143).exit_code == 143


def test_an_unknown_outcome_is_refused() -> None:
    with pytest.raises(RequestError, match="Unknown outcome 'fine'"):
        Summary(command="verify", outcome="fine")  # type: ignore[arg-type]


def test_library_and_command_line_end_with_the_same_code(world: World) -> None:
    world.asset(2).write_bytes(b"damaged")
    summary = summary_of(craftkit_archive.verify_assets(world.archive))
    world.archive.catalog.close()
    done = subprocess.run(program("--json", "verify", archive=world.archive.path), capture_output=True, text=True)
    assert summary.exit_code == done.returncode == json.loads(done.stdout.splitlines()[-1])["exit_code"] == 1
