"""PDF: a whole one is told from a cut one by its end, and nothing is malformed that one of two readers opens."""

import random
import re
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise, product
from pathlib import Path

import pikepdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftkit_archive.pdf.ends import TRAILER_BYTES, Ends
from craftkit_archive.pdf.readers import (
    NO_JBIG2,
    READERS,
    Structure,
    combine,
    inspect_with_pdfium,
    inspect_with_pikepdf,
)
from tests.worlds import needs, pdf

WHOLE = pdf("a whole one")
GENERATED = pikepdf.ObjectStreamMode.generate
PADDING = b"\0\t\n\f\r "


def ends(*chunks: bytes) -> Ends:
    seen = Ends()
    assert list(seen.watch(chunks)) == list(chunks)
    return seen


def verdict(*chunks: bytes) -> str | None:
    symptom = ends(*chunks).symptom()
    return symptom and symptom[0]


def detail(body: bytes) -> str:
    symptom = ends(body).symptom()
    assert symptom is not None
    return symptom[1]


# --- PDFs of several kinds -------------------------------------------------------------------------------------------


def many_pages(count: int = 3, *, stream_bytes: int = 0) -> pikepdf.Pdf:
    """Return a PDF whose pages have content that does not compress."""
    made = pikepdf.new()
    chance = random.Random(count)
    for number in range(count):
        made.add_blank_page(page_size=(200, 200))
        made.pages[number].Contents = made.make_stream(b"% " + chance.randbytes(stream_bytes).hex().encode())
    return made


def saved(made: pikepdf.Pdf, **options: object) -> bytes:
    out = BytesIO()
    made.save(out, static_id=True, **options)  # type: ignore[arg-type]
    return out.getvalue()


def update(body: bytes, text: str = "changed", *, stream: bool = False) -> bytes:
    """Append an incremental update to a PDF, as signers and form fillers do: an object, a table, a trailer, an end.

    Source: ISO 32000-1, 7.5.6.
    """
    before = int(re.findall(rb"startxref\s+(\d+)", body)[-1])
    with pikepdf.open(BytesIO(body)) as found:
        size, root = int(found.trailer.Size), found.trailer.Root.objgen
    head = body if body.endswith(b"\n") else body + b"\n"
    added = b"%d 0 obj\n<< /Note (%s) >>\nendobj\n" % (size, text.encode())
    at, table = len(head), len(head) + len(added)
    known = b"/Size %d /Root %d %d R /Prev %d" % (size + 1, *root, before)
    if stream:
        row = b"\x01" + at.to_bytes(4, "big") + b"\0"
        known = known.replace(b"/Size %d" % (size + 1), b"/Size %d" % (size + 2))
        head += added + b"%d 0 obj\n<< /Type /XRef %s /W [1 4 1] /Index [%d 1]" % (size + 1, known, size)
        head += b" /Length %d >>\nstream\n%s\nendstream\nendobj\n" % (len(row), row)
    else:
        head += added + b"xref\n%d 1\n%010d 00000 n \ntrailer\n<< %s >>\n" % (size, at, known)
    return head + b"startxref\n%d\n%%%%EOF\n" % table


def hybrid(body: bytes) -> bytes:
    """Let a trailer name a cross-reference stream too, for readers that know them.

    Source: ISO 32000-1, 7.5.8.4.
    """
    table = int(re.findall(rb"startxref\s+(\d+)", body)[-1])
    row = b"\0\0\0\0\0\0"
    made = (
        b"9 0 obj\n<< /Type /XRef /W [1 4 1] /Index [8 1] /Size 10 /Length 6 >>\nstream\n%s\nendstream\nendobj\n" % row
    )
    changed = body[:table] + made + body[table:]
    changed = changed.replace(b"trailer\n<< ", b"trailer\n<< /XRefStm %d " % table)
    return re.sub(rb"startxref\n\d+", b"startxref\n%d" % (table + len(made)), changed)


LINEARIZED: dict[str, Callable[[], bytes]] = {
    "small": lambda: saved(many_pages(), linearize=True),
    "with object streams": lambda: saved(many_pages(), linearize=True, object_stream_mode=GENERATED),
    "longer than what is kept of its end": lambda: saved(many_pages(4, stream_bytes=40_000), linearize=True),
}
UPDATED: dict[str, Callable[[], bytes]] = {
    "once": lambda: update(WHOLE),
    "three times": lambda: update(update(update(WHOLE), "and"), "again"),
    "with a stream": lambda: update(saved(many_pages(), object_stream_mode=GENERATED), stream=True),
    "with more than what is kept of its end": lambda: update(update(WHOLE), "x" * (TRAILER_BYTES + 1000)),
    "beginning with a comment": lambda: update(WHOLE + b"% signed\n"),
    "after linearizing": lambda: update(LINEARIZED["small"]()),
    "hybrid": lambda: update(hybrid(WHOLE)),
}


@pytest.fixture(scope="module")
def by_qpdf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """Return what writes a PDF with the program qpdf."""
    folder, program = tmp_path_factory.mktemp("qpdf"), needs("qpdf")

    def write(body: bytes, *options: str) -> bytes:
        (folder / "in.pdf").write_bytes(body)
        subprocess.run([program, "--static-id", *options, folder / "in.pdf", folder / "out.pdf"], check=True)
        return (folder / "out.pdf").read_bytes()

    return write


def older_states(body: bytes) -> Iterator[range]:
    """Yield where a cut leaves an older state of an updated PDF: at its `%%EOF`, and in the white space after it."""
    for marker in re.finditer(rb"startxref\s+[1-9]\d*\s+%%EOF\s*", body):
        yield range(marker.start() + len(marker[0].rstrip()), marker.end() + 1)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LINEARIZED)
def test_each_cut_of_a_linearized_pdf_is_found(kind: str) -> None:
    body = LINEARIZED[kind]()
    assert b"/Linearized" in body
    assert verdict(body) is None
    step, last = max(1, len(body) // 5000), len(body) - 2000
    found = {verdict(body[:length]) for length in (*range(20, last, step), *range(max(20, last), len(body)))}
    assert found == {"truncated"}


@pytest.mark.parametrize("options", [("--linearize",), ("--linearize", "--object-streams=generate")])
def test_each_cut_of_what_qpdf_linearized_is_found(by_qpdf: Callable[..., bytes], options: tuple[str, ...]) -> None:
    body = by_qpdf(saved(many_pages(2, stream_bytes=300)), *options)
    assert verdict(body) is None
    assert {verdict(body[:length]) for length in range(20, len(body))} == {"truncated"}


@pytest.mark.parametrize("kind", UPDATED)
def test_each_cut_of_an_updated_pdf_is_found_but_where_an_older_state_ends(kind: str) -> None:
    body = UPDATED[kind]()
    assert verdict(body) is None
    whole = {length for state in older_states(body) for length in state}
    if kind == "after linearizing":
        whole -= set(range(len(LINEARIZED["small"]())))
    assert whole, "a cut there leaves a whole PDF, as the docs say"
    step = max(1, len(body) // 5000)
    cuts = {*range(20, len(body), step), *range(max(20, len(body) - 3000), len(body))}
    assert {verdict(body[:length]) for length in cuts - whole} == {"truncated"}
    assert {verdict(body[:length]) for length in whole} == {None}


def test_an_update_of_what_qpdf_wrote_is_whole_and_its_cuts_are_found(by_qpdf: Callable[..., bytes]) -> None:
    body = update(by_qpdf(saved(many_pages()), "--linearize"))
    assert verdict(body) is None
    base = len(by_qpdf(saved(many_pages()), "--linearize"))
    assert {verdict(body[:length]) for length in range(base + 1, len(body) - 1)} == {"truncated"}


@given(st.data())
def test_bytes_that_are_missing_inside_a_linearized_pdf_are_found(data: st.DataObject) -> None:
    """As when line ends were converted: its end is right, and its length is not."""
    body = LINEARIZED["small"]()
    at = data.draw(st.integers(200, len(body) - 40))
    count = data.draw(st.integers(1, len(body) - at - 30))
    assert verdict(body[:at] + body[at + count :]) == "truncated"


@given(number=st.integers(0, 10**17))
def test_startxref_points_to_what_comes_before_it(number: int) -> None:
    table = int(re.findall(rb"startxref\n(\d+)", WHOLE)[0])
    body = WHOLE.replace(b"startxref\n%d" % table, b"startxref\n%d" % number)
    expected = "odd" if number == 0 else "truncated" if number >= body.rfind(b"startxref") else None
    assert verdict(body) == expected


@given(body=st.sampled_from([WHOLE, update(WHOLE), WHOLE + b"\n" * 3000, WHOLE[:-200], b"x" * 5000]), data=st.data())
def test_how_a_stream_is_cut_into_chunks_changes_nothing(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=12)))
    chunks = [body[start:stop] for start, stop in pairwise([0, *cuts, len(body)])]
    whole, pieces = ends(body), ends(*chunks)
    assert pieces.symptom() == whole.symptom()
    assert (pieces.size_bytes, pieces.padding_bytes) == (whole.size_bytes, whole.padding_bytes)


@pytest.mark.parametrize("chunk_bytes", [1 << 20, TRAILER_BYTES, 1000, 7])
@pytest.mark.parametrize("padding", [b"\n", b"\0", b" \r\n"])
def test_padding_hides_no_end_and_much_of_it_is_odd(padding: bytes, chunk_bytes: int) -> None:
    for length, expected in ((1, None), (60_000, None), (70_000, "odd"), (200_000, "odd")):
        body = update(WHOLE) + (padding * length)[:length]
        chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
        assert verdict(*chunks) == expected
        # In the middle it is neither an end nor odd.
        assert verdict(*chunks, b"7 0 obj\n<< /Half") == "truncated"
        updated = update(body)
        assert verdict(*chunks, updated[len(body) :]) is None


@given(st.binary(min_size=1, max_size=300).filter(lambda junk: junk.strip(PADDING) and b"%%EOF" not in junk))
def test_whatever_follows_the_end_is_noticed(junk: bytes) -> None:
    assert verdict(WHOLE + junk) in ("odd", "truncated")


def test_a_pdf_inside_a_pdf_is_not_its_end() -> None:
    """An attachment that is not compressed has an end of its own."""
    made = many_pages()
    made.attachments["inner.pdf"] = pikepdf.AttachedFileSpec(made, WHOLE)
    body = saved(made, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.none)
    inner = body.find(WHOLE)
    assert inner > 0
    assert verdict(body) is None
    assert {verdict(body[:length]) for length in range(inner + 20, len(body) - 1)} == {"truncated"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (WHOLE.replace(b"%%EOF", b""), "no %%EOF"),
        (WHOLE.replace(b"startxref", b"startxxxx"), "no startxref"),
        (re.sub(rb"startxref\n\d+", b"startxref\n", WHOLE), "no number"),
        (WHOLE + b"7 0 obj\n<< /Half", "17 bytes of PDF follow it"),
    ],
)
def test_what_is_wrong_with_an_end_is_said(body: bytes, words: str) -> None:
    assert words in detail(body)


# --- before the header -----------------------------------------------------------------------------------------------

BEFORE = {
    b"10000;chunk-signature=" + b"0a" * 32 + b"\r\n": "aws-chunked",
    b"4d2\r\n": "aws-chunked",
    b"ffff;chunk-extension\r\n": "aws-chunked",
    b"\xef\xbb\xbf": "byte-order mark",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\n\r\n": "HTTP answer",
    b"--boundary42\r\nContent-Disposition: form-data\r\n\r\n": "MIME multipart",
    b"\x1b%-12345X@PJL ENTER LANGUAGE=PDF\r\n": "PJL",
    b"\r\n \n": "white space",
    b"Warning: something happened": "they begin with 'Warning",
}


@pytest.mark.parametrize("before", BEFORE)
def test_bytes_before_the_header_are_told_with_their_cause(before: bytes) -> None:
    body = before + WHOLE
    assert verdict(body) == "odd"
    assert detail(body).startswith(f"{len(before)} bytes before %PDF-: ")
    assert BEFORE[before] in detail(body)


@pytest.mark.parametrize("size", [8 << 10, 64 << 10, 128 << 10])
def test_a_whole_aws_chunked_body_is_named_as_such(size: int) -> None:
    body = saved(many_pages(3, stream_bytes=50_000))
    framed = b"".join(
        b"%x;chunk-signature=%s\r\n%s\r\n" % (len(body[at : at + size]), b"ab" * 32, body[at : at + size])
        for at in range(0, len(body), size)
    )
    framed += b"0;chunk-signature=" + b"cd" * 32 + b"\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    assert verdict(framed) == "odd"
    assert "aws-chunked" in detail(framed)


@given(st.binary(min_size=1, max_size=1000).filter(lambda before: b"%PDF-" not in before + b"%PDF"))
def test_nothing_before_the_header_goes_unnoticed(before: bytes) -> None:
    assert verdict(before + WHOLE) == "odd", "offsets may count from the header: that alone is not damage"
    assert verdict(before + LINEARIZED["small"]()[:-100]) in ("truncated", "odd")


def test_a_linearized_pdf_counts_from_its_header() -> None:
    body = b"\n" * 1000 + LINEARIZED["small"]()
    assert "linearized" not in detail(body)
    assert "linearized" in detail(body[:-1])


@pytest.mark.parametrize("body", [b"%PDG-1.4" + WHOLE[8:], b"x" * 2000 + WHOLE, b"<html></html>"])
def test_what_has_no_header_is_no_pdf(body: bytes) -> None:
    assert verdict(body) == "not-a-pdf"


# --- two readers -----------------------------------------------------------------------------------------------------


def readings(body: bytes) -> dict[str, Structure]:
    return {name: read(body) for name, read in READERS.items()}


@pytest.mark.parametrize("answers", list(product([True, False, None], repeat=2)))
def test_one_that_opens_it_is_enough_and_malformed_takes_both(answers: tuple[bool | None, bool | None]) -> None:
    seen = {name: Structure(opens, oddities=("why",)) for name, opens in zip(READERS, answers, strict=True)}
    together = combine(seen)
    assert together.opens == (True if True in answers else None if None in answers else False)
    for name, opens in zip(READERS, answers, strict=True):
        assert opens or any(name in oddity and "why" in oddity for oddity in together.oddities)


def test_each_reader_opens_what_the_other_does_not() -> None:
    only_pikepdf = WHOLE.replace(b"%PDF-1.4", b"%XYZ-1.4")
    only_pdfium = WHOLE.replace(b"/Kids [3 0 R]", b"/Kyds [3 0 R]")
    assert [seen.opens for seen in readings(only_pikepdf).values()] == [True, False]
    assert [seen.opens for seen in readings(only_pdfium).values()] == [False, True]
    assert combine(readings(only_pikepdf)).oddities[-1] == "PDFium cannot open it: data format error"
    assert combine(readings(only_pdfium)).oddities == ("pikepdf cannot open it: root of pages tree has no /Kids array",)


def test_readers_take_the_path_of_a_large_file(tmp_path: Path) -> None:
    (tmp_path / "whole.pdf").write_bytes(WHOLE)
    (tmp_path / "bad.pdf").write_bytes(WHOLE[:100])
    (tmp_path / "certificates.pdf").write_bytes(encrypted(CERTIFICATES))
    for read in READERS.values():
        assert read(str(tmp_path / "whole.pdf")) == Structure(True, 1)
        assert read(str(tmp_path / "bad.pdf")).opens is False
        assert "certificates" in read(str(tmp_path / "certificates.pdf")).oddities[0]
        assert str(tmp_path) not in str(read(str(tmp_path / "bad.pdf")))


def encrypted(dictionary: bytes) -> bytes:
    """Let a PDF say that it is encrypted."""
    return WHOLE.replace(b"/Root 1 0 R >>", b"/Root 1 0 R /ID [<aa><aa>] /Encrypt " + dictionary + b" >>")


CERTIFICATES = (
    b"<< /Filter /Adobe.PubSec /SubFilter /adbe.pkcs7.s5 /V 4 /Length 128 /CF << /DefaultCryptFilter"
    b" << /CFM /AESV2 /Length 16 /Recipients [<3000>] >> >> /StmF /DefaultCryptFilter /StrF /DefaultCryptFilter >>"
)
_KEYS = b"/O <%s> /U <%s> /OE <%s> /UE <%s> /Perms <%s>" % (*[b"00" * 48] * 2, *[b"00" * 32] * 2, b"00" * 16)
LOCKED: dict[str, tuple[bytes, str]] = {
    "for certificates": (encrypted(CERTIFICATES), "encrypted for the holders of certificates"),
    "newer than any reader": (encrypted(b"<< /Filter /Standard /V 9 /R 9 /Length 256 /P -4 %s >>" % _KEYS), "V = 9"),
    "of another maker": (encrypted(b"<< /Filter /FOPN_foweb /V 1 >>"), "unsupported encryption filter"),
}


@pytest.mark.parametrize("kind", LOCKED)
def test_an_encryption_that_nobody_can_open_is_no_damage(kind: str) -> None:
    body, words = LOCKED[kind]
    together = combine(readings(body))
    assert together.opens is None
    assert words in "; ".join(together.oddities)
    assert "look into it" in together.oddities[0]


@pytest.mark.parametrize("strength", [2, 3, 4, 6])
def test_a_password_is_no_damage(strength: int) -> None:
    locked = pikepdf.Encryption(user="u", owner="o", R=strength, aes=strength > 3, metadata=strength > 3)  # type: ignore[arg-type]
    out = BytesIO()
    with pikepdf.open(BytesIO(WHOLE)) as plain:
        plain.save(out, encryption=locked)
    assert combine(readings(out.getvalue())) == Structure(
        None, None, ("neither pikepdf nor PDFium can look into it: it asks for a password",)
    )


def with_jbig2() -> bytes:
    """Return a PDF with a JBIG2 image."""
    with pikepdf.open(BytesIO(WHOLE)) as made:
        image = pikepdf.Stream(made, bytes.fromhex("00000000 30 00 01 00000013") + bytes(19))
        image.stream_dict = pikepdf.Dictionary(
            Type=pikepdf.Name.XObject,
            Subtype=pikepdf.Name.Image,
            Width=8,
            Height=8,
            BitsPerComponent=1,
            ColorSpace=pikepdf.Name.DeviceGray,
            Filter=pikepdf.Name.JBIG2Decode,
        )
        made.pages[0].Resources.XObject = pikepdf.Dictionary(Image=made.make_indirect(image))
        return saved(made)


def test_a_missing_decoder_is_named_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        assert inspect_with_pikepdf(with_jbig2()) == Structure(True, 1, (NO_JBIG2,))
    assert inspect_with_pdfium(with_jbig2()) == Structure(True, 1)


@given(st.binary(max_size=400), st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)))
def test_readers_answer_whatever_they_are_given(junk: bytes, start: int, stop: int) -> None:
    body = WHOLE[:start] + junk + WHOLE[stop:]
    for name, seen in readings(body).items():
        assert seen.opens or seen.oddities, name
