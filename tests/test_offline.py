"""The offline installer: made here, installed where nothing can be reached; and the recipe of the image."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from release.offline import bundle_name
from tests.worlds import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def run(*words: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a program without a network, if the system lets it be taken away, and without pip's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    alone = ["unshare", "--net", "--map-root-user"] if _can_be_alone() else []
    done = subprocess.run([*alone, *words], cwd=cwd, env=kept, capture_output=True, text=True, timeout=800)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _can_be_alone() -> bool:
    words = ["unshare", "--net", "--map-root-user", "true"]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that a box gets."""
    folder = tmp_path_factory.mktemp("offline")
    source = folder / "source"
    # From a copy: setuptools would leave what it builds in the checkout, and take what it finds there.
    for name in ("release", "manual", "craftkit_archive", "server"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "setup.py", "pyproject.toml", "README.md", "Makefile"):
        shutil.copy(ROOT / name, source / name)
    # As on Debian, Python is `python3` alone, and it has none of the libraries: make has to see to that.
    base = folder / "bin/python3"
    base.parent.mkdir()
    base.write_text(f'#!/bin/sh\nexec {Path(sys.base_prefix, "bin/python3")} "$@"\n')
    base.chmod(0o755)
    for program in ("sh", "test", "echo"):
        (base.parent / program).symlink_to(str(shutil.which(program)))
    known = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    make = [str(shutil.which("make")), "offline"]
    subprocess.run(make, cwd=source, env={**known, "PATH": str(base.parent)}, check=True)
    with tarfile.open(source / f"dist/{bundle_name()}.tar") as packed:
        packed.extractall(folder / "box", filter="data")
    return folder / "box" / bundle_name()


def test_it_installs_and_works_where_nothing_can_be_reached(unpacked: Path, tmp_path: Path) -> None:
    target = tmp_path / "opt/craftkit-archive"
    said = run(unpacked / "install.sh", target, cwd=tmp_path)
    assert "craftkit-archive 0." in said
    program = target / "bin/craftkit-archive"
    run(program, "--archive", tmp_path / "a", "init", cwd=tmp_path)
    run(program, "--archive", tmp_path / "a", "doctor", cwd=tmp_path)
    assert (target / "share/man/man1/craftkit-archive.1").exists()
    # Once more, over what is there.
    assert "craftkit-archive 0." in run(unpacked / "install.sh", target, cwd=tmp_path)


def test_wheels_that_were_changed_are_refused(unpacked: Path, tmp_path: Path) -> None:
    other = shutil.copytree(unpacked, tmp_path / "other")
    wheel = next((other / "wheels").glob("click-*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"x")
    assert "not as they were made" in run(other / "install.sh", tmp_path / "opt", cwd=tmp_path, code=1)
    assert not (tmp_path / "opt").exists()


def test_another_python_is_told_what_is_needed(unpacked: Path, tmp_path: Path) -> None:
    other = shutil.copytree(unpacked, tmp_path / "other")
    (other / "platform").write_text("PYTHON=2.7\nPLATFORM=vax\nREQUIREMENT=craftkit-archive\n")
    said = run(other / "install.sh", tmp_path / "opt", cwd=tmp_path, code=1)
    assert "for Python 2.7 on vax" in said
    assert run(other / "install.sh", cwd=tmp_path, code=2).startswith("Usage: ")


def test_every_wheel_has_its_digest(unpacked: Path) -> None:
    listed = {line[66:] for line in (unpacked / "SHA256SUMS").read_text().splitlines()}
    assert listed == {f"wheels/{file.name}" for file in (unpacked / "wheels").iterdir()}


def test_the_image_is_built_of_these_files_alone(unpacked: Path, tmp_path: Path) -> None:
    """What the recipe copies and runs is in the unpacked folder; no step of it asks a network."""
    recipe = (ROOT / "docs/operations/Dockerfile").read_text()
    first, _, _ = recipe.partition("\nFROM ${BASE}\n")
    assert re.findall(r"^(?:COPY|ADD) (?!--from)(.+)$", recipe, re.MULTILINE) == [". /offline"]
    (step,) = re.findall(r"^RUN (.+)$", first, re.MULTILINE)
    step = step.replace("/offline", str(unpacked)).replace("/opt/craftkit-archive", str(tmp_path / "image"))
    run("sh", "-ec", step, cwd=tmp_path)
    assert run(tmp_path / "image/bin/craftkit-archive", "--version", cwd=tmp_path).startswith("craftkit-archive ")
    assert not re.search(r"pip install|apt|curl|http(?!://127)", "\n".join(re.findall(r"^RUN (.+)$", recipe, re.M)))
