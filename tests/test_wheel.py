"""The wheel, installed outside the checkout: all files are in it, and it works."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from manual.man_pages import write_pages
from tests.worlds import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def run(*words: str | Path, cwd: Path, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _files() -> list[str]:
    """Name the files of the program, relative to the checkout."""
    found = [ROOT / "cli.py", *(ROOT / "craftkit_archive").rglob("*"), *(ROOT / "server").rglob("*")]
    return [file.relative_to(ROOT).as_posix() for file in found if file.is_file() and "__pycache__" not in file.parts]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: setuptools would leave what it builds in the checkout, and take what it finds there.
    for name in ["README.md", "setup.py", "pyproject.toml", *_files()]:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    write_pages(folder / "source/share/man/man1")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, folder / "source", cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """Return the programs of an environment that has the wheel; the libraries are those of the tests."""
    place = tmp_path / "environment"
    venv.create(place, symlinks=True, with_pip=False)
    run(
        sys.executable, "-m", "pip", "--python", place / "bin/python", "install", "-q", "--no-deps", wheel, cwd=tmp_path
    )
    (site,) = place.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return place / "bin"


def test_every_file_of_the_program_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    pages = {name for name in names if name.endswith(".1")}
    assert names - pages == set(_files())
    assert len(pages) > 20
    assert all("/data/share/man/man1/craftkit-archive" in name for name in pages)


def test_man_finds_its_pages_where_it_is_installed(installed: Path) -> None:
    assert (installed.parent / "share/man/man1/craftkit-archive-verify.1").read_text().startswith(".TH")


def test_it_does_the_main_job_anywhere(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "craftkit-archive", "--version", cwd=tmp_path).startswith("craftkit-archive ")
    assert run(installed / "python", "-m", "craftkit_archive", "--version", cwd=tmp_path).startswith(
        "craftkit-archive "
    )
    run(installed / "craftkit-archive", "--archive", "a", "quickstart", "--once", ROOT / "data/sample", cwd=tmp_path)
    said = run(installed / "python", "-m", "craftkit_archive", "--archive", "a", "doctor", cwd=tmp_path)
    assert "its files are those that were installed" in said


@pytest.mark.parametrize("name", ["server/app.py", "craftkit_archive/proof/seal.py"])
def test_doctor_finds_a_file_that_another_package_replaced(installed: Path, tmp_path: Path, name: str) -> None:
    (site,) = installed.parent.glob("lib/python*/site-packages")
    run(installed / "craftkit-archive", "--archive", "a", "init", cwd=tmp_path)
    (site / name).write_text((site / name).read_text() + "\n")
    said = run(installed / "craftkit-archive", "--archive", "a", "doctor", cwd=tmp_path, code=1)
    assert f"{site / name} is not the file that was installed" in said


def test_it_does_not_run_what_another_package_put_in_its_place(installed: Path, tmp_path: Path) -> None:
    (site,) = installed.parent.glob("lib/python*/site-packages")
    (site / "cli.py").write_text("def main(): print('another program')\n")
    for words in (["craftkit-archive"], ["python", "-m", "craftkit_archive"]):
        said = run(installed / words[0], *words[1:], "--version", cwd=tmp_path, code=1)
        assert "belongs to another package. Install craftkit-archive into a virtual environment" in said


@pytest.mark.parametrize("command", ["serve", "quickstart"])
def test_it_does_not_serve_with_the_server_of_another_package(installed: Path, tmp_path: Path, command: str) -> None:
    (site,) = installed.parent.glob("lib/python*/site-packages")
    (site / "server/__init__.py").write_text("")
    said = run(installed / "craftkit-archive", command, "--public-url", "http://x", cwd=tmp_path, code=2)
    assert f"{site}/server/__init__.py belongs to another package." in said
    run(installed / "craftkit-archive", "--archive", "a", "init", cwd=tmp_path)
