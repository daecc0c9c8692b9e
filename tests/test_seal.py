"""The seal can be recomputed by anyone."""

import subprocess
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from craftkit_archive.proof.seal import SealBuilder, compute_seal
from tests.worlds import needs


def test_sort_and_sha256sum_recompute_the_seal(tmp_path: Path) -> None:
    needs("sha256sum")
    for name in ("b.pdf", "a.pdf", "ü.pdf", "Z.pdf"):
        (tmp_path / name).write_bytes(name.encode())
    held = [(sha256(file.read_bytes()).hexdigest(), file.name) for file in tmp_path.iterdir()]
    script = "sha256sum *.pdf | LC_ALL=C sort | sha256sum"
    told = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert compute_seal(sorted(held)) == told.stdout.split()[0]


@given(st.sets(st.tuples(st.binary(min_size=32, max_size=32).map(bytes.hex), st.text(min_size=1)), min_size=1))
def test_the_seal_tells_any_change(held: set[tuple[str, str]]) -> None:
    whole = sorted((digest, key.encode("utf-8", "replace").decode()) for digest, key in held)
    assert compute_seal(whole) != compute_seal(whole[1:])


_HELD = st.tuples(
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)


@given(st.lists(_HELD), st.integers(1, 4))
def test_the_order_in_which_things_come_is_nothing_to_the_seal(held: list[tuple[str, str]], run: int) -> None:
    with patch("craftkit_archive.proof.seal.RUN_LINES", run), SealBuilder() as sealing:
        for one in held:
            sealing.add(*one)
        assert sealing.result() == compute_seal(sorted(held, key=lambda one: (one[0], one[1].encode())))
