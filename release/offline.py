"""One tar for boxes without a network: wheels for this kind of machine, and a script that installs them.

`python -m release.offline FOLDER [EXTRA,…]` writes it into FOLDER. It installs on machines with the same version of
Python, system and processor.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from hashlib import file_digest
from pathlib import Path

from craftkit_archive import __version__

ROOT = Path(__file__).parent.parent
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def bundle_name() -> str:
    """Return the name of the folder in the tar, which says for which machines it is."""
    return f"craftkit-archive-{__version__}-{sysconfig.get_platform()}-cp{PYTHON.replace('.', '')}"


def write_bundle(folder: Path, extras: str = "") -> Path:
    """Write the tar and return its path.

    Args:
        folder: Where it goes; made if need be.
        extras: Extras of the package to take along, with commas between them.
    """
    requirement = f"craftkit-archive[{extras}]" if extras else "craftkit-archive"
    with tempfile.TemporaryDirectory() as made:
        wheels = Path(made) / "wheels"
        # `pip wheel` also builds wheels of what is only there as source.
        _pip("wheel", "--quiet", "--wheel-dir", wheels, f"{ROOT}[{extras}]" if extras else ROOT)
        _pip("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", wheels, "pip")
        names = sorted(f"wheels/{file.name}" for file in wheels.iterdir())
        sums = "".join(f"{_digest(Path(made, name))}  {name}\n" for name in names)
        Path(made, "SHA256SUMS").write_text(sums)
        facts = f"PYTHON={PYTHON}\nPLATFORM={sysconfig.get_platform()}\nREQUIREMENT='{requirement}'\n"
        Path(made, "platform").write_text(facts)
        folder.mkdir(parents=True, exist_ok=True)
        tar = folder / f"{bundle_name()}.tar"
        with tarfile.open(tar, "w") as packed:
            for name in ("install.sh", "platform", "SHA256SUMS", *names):
                source = ROOT / "release/install.sh" if name == "install.sh" else Path(made, name)
                packed.add(source, f"{bundle_name()}/{name}", filter=_anonymous)
    return tar


def _pip(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], check=True)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made it, and when: the same wheels make the same tar."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    member.mode = 0o755 if member.name.endswith(".sh") else 0o644
    return member


if __name__ == "__main__":
    print(write_bundle(Path(sys.argv[1]), sys.argv[2] if sys.argv[2:] else ""))
