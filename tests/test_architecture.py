"""The house stands as it was drawn: import ranks, one home for each library, complete error tables."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import cli
from craftkit_archive import errors
from craftkit_archive.records import OUTCOME_CODES
from server.errors import ANSWERS
from tests.worlds import ROOT

DESIGN = (ROOT / "docs/design.md").read_text()
HOMES = {
    "apprise": {"craftkit_archive.notify.outlets"},
    "smtplib": {"craftkit_archive.notify.mail"},
    "click": {"cli", "craftkit_archive.commands"},
    "sqlite3": {"craftkit_archive.catalog"},
    "sqlite_utils": {"craftkit_archive.catalog.migrations"},
    "ijson": {"craftkit_archive.importer"},
    "pikepdf": {"craftkit_archive.pdf.readers"},
    "pypdfium2": {"craftkit_archive.pdf.readers"},
    "psycopg": {"craftkit_archive.importer.postgres"},
    "botocore": {"craftkit_archive.stores.aws"},
    "obstore": {"craftkit_archive.stores"},
    "rfc3161_client": {"craftkit_archive.proof.timestamps"},
    "urllib3": {
        "craftkit_archive.connections",
        "craftkit_archive.notify.outlets",
        "craftkit_archive.proof.timestamps",
        "craftkit_archive.sources.api",
    },
    "tqdm": {"craftkit_archive.parallel.progress"},
    "concurrent": {"craftkit_archive.parallel"},
    "dask": {"craftkit_archive.parallel.cluster"},
    "distributed": {"craftkit_archive.parallel.cluster"},
    "multiprocessing": {"craftkit_archive.parallel"},
    "bottle": {"server.app", "server.ranges"},
    "prometheus_client": {"server.metrics"},
    "waitress": {"server.http"},
    "wcwidth": {"craftkit_archive.columns"},
    "jinja2": {"craftkit_archive.html.pages"},
    "markupsafe": {"craftkit_archive.html.pages"},
}


def _modules() -> dict[str, Path]:
    files = [ROOT / "cli.py", *(ROOT / "craftkit_archive").rglob("*.py"), *(ROOT / "server").rglob("*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    return dict(sorted(names.items()))


MODULES = _modules()


@cache
def _imports(file: Path) -> frozenset[str]:
    """Return the full names that a file imports when it runs; those for the type checker alone do not count."""
    tree = ast.parse(file.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set[str]()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def _own_imports(module: str) -> set[str]:
    """Return the modules of ours that a module imports."""
    found = set()
    for name in _imports(MODULES[module]):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", module}


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "craftkit_archive" and parts[1:] else parts[0]


FLOORS = {
    room: int(floor)
    for floor, rooms in re.findall(r"^\| (\d+) \| (.+) \|$", DESIGN, re.MULTILINE)
    for room in rooms.split(", ")
}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module: str) -> None:
    for imported in _own_imports(module):
        if _room(imported) not in (_room(module), "craftkit_archive"):
            assert FLOORS[_room(imported)] < FLOORS[_room(module)], f"{module} imports {imported}"


@pytest.mark.parametrize("room", FLOORS)
def test_inside_a_room_there_is_no_circle(room: str) -> None:
    left = {module: _own_imports(module) for module in MODULES if _room(module) == room}
    while left:
        free = {module for module, imported in left.items() if not imported & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        for module in free:
            del left[module]


def test_the_drawing_has_every_module() -> None:
    drawing = DESIGN.partition("## The house\n")[2].partition("\nA room is")[0]
    drawn, folders = set(), [""]
    for line in drawing.splitlines():
        indent = (len(line) - len(line.lstrip()) - 4) // 2
        for word in re.split("  +", line.strip())[0].split():
            if word.endswith("/"):
                folders[indent + 1 :] = [f"{folders[indent]}{word[:-1]}."]
            elif word.endswith(".py"):
                drawn.add(folders[indent] + word.removesuffix(".py"))
    modules = {name for name, file in MODULES.items() if file.name != "__init__.py"}
    assert drawn == {name for name in modules if not _is_family(name)}


def _is_family(module: str) -> bool:
    """Say whether a module is one of the families of commands, which the drawing does not list."""
    return _room(module) == "commands" and module.rpartition(".")[2] not in (
        "options",
        "console",
        "signals",
        "configuring",
    )


def _public(file: Path) -> Iterator[str]:
    """Yield the public classes, functions and types that a file defines; but no type variables of one letter."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [one.id for one in targets if isinstance(one, ast.Name) and re.match("[A-Z].*[a-z]", one.id)]
        yield from (name for name in names if not name.startswith("_"))


def test_no_two_public_names_are_the_same() -> None:
    """Constants may be: each is one module's own figure. `main` is what the program's start is called everywhere."""
    homes: dict[str, list[str]] = {}
    for module, file in MODULES.items():
        for name in _public(file):
            homes.setdefault(name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {
        "main": ["cli", "craftkit_archive.__main__"]
    }


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library: str) -> None:
    users = {name for name, file in MODULES.items() if library in {i.split(".")[0] for i in _imports(file)}}
    homes = {next((home for home in HOMES[library] if f"{name}.".startswith(f"{home}.")), name) for name in users}
    assert homes == HOMES[library]


def test_every_leaf_of_the_error_tree_has_an_exit_code_and_an_http_status() -> None:
    leaves = set(errors.leaves())
    assert set(cli.EXIT_CODES) == leaves
    assert set(ANSWERS) == leaves


def test_every_exit_code_is_explained() -> None:
    used = {*cli.EXIT_CODES.values(), *OUTCOME_CODES.values(), cli.OWN_BUG, cli.READER_GONE, 130, 143}
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
        "distributed",
        "hashlib",
        "ijson",
        "jinja2",
        "msgspec",
        "obstore",
        "pikepdf",
        "pypdfium2",
        "prometheus_client",
        "sqlite3",
        "sqlite_utils",
        "tqdm",
        "waitress",
        "wcwidth",
    }
    assert not heavy & set(loaded.stdout.split())


@pytest.mark.parametrize("task", ["verify.fixity", "export.workers"])
def test_workers_import_nothing_heavy(task: str) -> None:
    """What is left out here takes 2 to 100 ms in each process that reads or copies PDFs."""
    script = f"import sys, craftkit_archive.{task}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"typing_extensions", "ctypes", "msgspec", "jinja2", "botocore"}


def test_a_command_is_imported_when_something_asks_for_it() -> None:
    script = (
        "import sys, cli; print(*sys.modules); cli.main.get_command(None, 'init');"
        " print(*sys.modules); assert 'fetch' in cli.main.commands; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after, asked = (set(line.split()) for line in done.stdout.splitlines())
    families = {f"craftkit_archive.commands.{place.partition('.')[0]}" for place in cli.COMMANDS.values()}
    assert not families & before
    assert families & after == families & asked == {"craftkit_archive.commands.upkeep"}
    assert [name for name, command in cli.main.commands.items() if command.name != name] == []


def test_every_connection_is_closed_where_it_is_opened() -> None:
    """The `with` of a connection commits and does not close, of which Python 3.13 complains: `closing` does."""
    ours = [*MODULES.values(), *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    left_open = [
        f"{file.name}:{item.context_expr.lineno}"
        for file in ours
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.With)
        for item in node.items
        if ast.unparse(item.context_expr).startswith("sqlite3.connect(")
    ]
    assert left_open == []
