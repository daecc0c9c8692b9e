"""The house stands as it was drawn: import ranks, one home for each library, complete error tables."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cli
from craftkit_archive import errors
from craftkit_archive.records import OUTCOME_CODES
from server.errors import ANSWERS
from tests.worlds import ROOT

# A module imports only from ranks above its own; modules of one rank do not import each other.
RANKS = [
    {"craftkit_archive"},
    {"craftkit_archive.errors", "craftkit_archive.spawning"},
    {"craftkit_archive.values", "craftkit_archive.seal"},
    {
        "craftkit_archive.bag",
        "craftkit_archive.manifest",
        "craftkit_archive.packing",
        "craftkit_archive.unpacking",
    },
    {"craftkit_archive.records"},
    {"craftkit_archive.decoding", "craftkit_archive.work"},
    {"craftkit_archive.coverage", "craftkit_archive.tables", "craftkit_archive.states"},
    {
        "craftkit_archive.catalog",
        "craftkit_archive.store",
        "craftkit_archive.pdf",
        "craftkit_archive.reading",
        "craftkit_archive.page",
    },
    {"craftkit_archive.folder", "craftkit_archive.aws", "craftkit_archive.exports", "craftkit_archive.postgres"},
    {"craftkit_archive.bucket", "craftkit_archive.craftkit_api"},
    {"craftkit_archive.places"},
    {
        "craftkit_archive.sources",
        "craftkit_archive.fixity",
        "craftkit_archive.copying",
    },
    {
        "craftkit_archive.archive",
        "craftkit_archive.merging",
        "craftkit_archive.quarantine",
        "craftkit_archive.report_forms",
        "craftkit_archive.naming",
        "craftkit_archive.outcomes",
    },
    {"craftkit_archive.report_html"},
    {"craftkit_archive.targets"},
    {"craftkit_archive.papers"},
    {"craftkit_archive.destination"},
    {
        "craftkit_archive.importing",
        "craftkit_archive.fetching",
        "craftkit_archive.repairing",
        "craftkit_archive.verifying",
        "craftkit_archive.exporting",
        "craftkit_archive.checking",
        "craftkit_archive.reporting",
        "craftkit_archive.doctor",
        "craftkit_archive.accepting",
    },
    {"craftkit_archive.quickstart", "craftkit_archive.rebuilding"},
    {"server", "server.errors", "server.context", "server.ranges", "server.addresses", "server.bodies"},
    {"server.auth", "server.listing", "server.access_log", "server.metrics", "server.http"},
    {"server.app"},
    {"server.serve"},
    {"craftkit_archive.commands", "craftkit_archive.commands.signals"},
    {"craftkit_archive.commands.console"},
    {"craftkit_archive.commands.options"},
    {
        "craftkit_archive.commands.assets",
        "craftkit_archive.commands.exporting",
        "craftkit_archive.commands.keys",
        "craftkit_archive.commands.lookup",
        "craftkit_archive.commands.metadata",
        "craftkit_archive.commands.serving",
        "craftkit_archive.commands.upkeep",
    },
    {"cli"},
]

HOMES = {
    "click": {"cli", "craftkit_archive.commands"},
    "sqlite3": {"craftkit_archive.catalog"},
    "sqlite_utils": {"craftkit_archive.catalog"},
    "ijson": {"craftkit_archive.reading"},
    "pikepdf": {"craftkit_archive.pdf"},
    "pypdfium2": {"craftkit_archive.pdf"},
    "psycopg": {"craftkit_archive.postgres"},
    "botocore": {"craftkit_archive.aws"},
    "obstore": {"craftkit_archive.bucket"},
    "urllib3": {"craftkit_archive.craftkit_api"},
    "tqdm": {"craftkit_archive.work"},
    "concurrent": {"craftkit_archive.work"},
    "multiprocessing": {"craftkit_archive.spawning", "craftkit_archive.work"},
    "bottle": {"server.app", "server.ranges", "server.serve"},
    "prometheus_client": {"server.metrics"},
    "waitress": {"server.http"},
}


def _modules() -> dict[str, Path]:
    files = [ROOT / "cli.py", *(ROOT / "craftkit_archive").rglob("*.py"), *(ROOT / "server").glob("*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    return dict(sorted(names.items()))


def _imports(file: Path) -> Iterator[str]:
    """Yield the full names that a file imports when it runs; those for the type checker alone do not count."""
    tree = ast.parse(file.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _rank(name: str) -> int | None:
    """Return the rank of what an imported name belongs to, or None if it is not ours."""
    while name:
        for rank, members in enumerate(RANKS):
            if name in members:
                return rank
        name = name.rpartition(".")[0]
    return None


@pytest.mark.parametrize("name", _modules())
def test_imports_run_one_way(name: str) -> None:
    own = _rank(name)
    assert own is not None, f"{name} has no rank: give it a place in RANKS"
    for imported in _imports(_modules()[name]):
        rank = _rank(imported)
        assert rank is None or rank < own, f"{name} imports {imported}"


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library: str) -> None:
    users = {name for name, file in _modules().items() if library in {i.split(".")[0] for i in _imports(file)}}
    assert {next((home for home in HOMES[library] if f"{name}.".startswith(f"{home}.")), name) for name in users} == (
        HOMES[library]
    )


def test_every_leaf_of_the_error_tree_has_an_exit_code_and_an_http_status() -> None:
    leaves = set(errors.leaves())
    assert set(cli.EXIT_CODES) == leaves
    assert set(ANSWERS) == leaves


def test_every_exit_code_is_explained() -> None:
    used = {*cli.EXIT_CODES.values(), *OUTCOME_CODES.values(), cli.OWN_BUG, 130, 143}
    assert used == set(cli.EXIT_CODE_WORDS)


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error")}
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
    assert drawn == classes


def test_start_up_imports_nothing_heavy() -> None:
    script = "import sys, cli; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {
        "boto3",
        "botocore",
        "bottle",
        "concurrent",
        "ijson",
        "msgspec",
        "obstore",
        "pikepdf",
        "pypdfium2",
        "prometheus_client",
        "sqlite3",
        "sqlite_utils",
        "tqdm",
        "waitress",
    }
    assert not heavy & set(loaded.stdout.split())
