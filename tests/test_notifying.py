"""Whom to tell: real receivers of HTTP and SMTP, programs, Apprise; what fails is said in time and without a secret."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftkit_archive.notify import outlets
from craftkit_archive.notify.mail import write_message
from craftkit_archive.notify.message import Notice, StepResult, state_of, write_trial
from craftkit_archive.notify.send import announce_end, announce_start, try_outlets
from craftkit_archive.notify.settings import Notify, Smtp, parse_mailbox
from craftkit_archive.records import Diagnosis, Summary
from craftkit_archive.values import utc_now
from tests.receivers import Answer, Receiver, http_receiver, smtp_server, talking, wait_until
from tests.worlds import ROOT, Done, World, command

SECRETS = {
    "CRAFTKIT_ARCHIVE_PING_URL",
    "CRAFTKIT_ARCHIVE_WEBHOOK_URL",
    "CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN",
    "CRAFTKIT_ARCHIVE_SMTP_PASSWORD",
    "CRAFTKIT_ARCHIVE_APPRISE_URLS",
}
LIMIT = "2s"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no secret and no proxy from the environment."""
    for name in (*SECRETS, *(f"{name}_FILE" for name in SECRETS), "CREDENTIALS_DIRECTORY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Return an HTTP receiver."""
    with http_receiver() as receiver:
        yield receiver


def night(**fields: Any) -> Notice:
    """Return the notice of a night that found damage."""
    given: dict[str, Any] = {
        "archive": "/srv/archive",
        "host": "vault1",
        "outcome": "problems",
        "exit_code": 1,
        "started_at": "2026-06-05T01:00:00.000Z",
        "finished_at": "2026-06-05T02:59:00.000Z",
        "sentence": "3 PDFs damaged",
        "steps": [
            StepResult(name="import", outcome="ok", sentence="12 inserted"),
            StepResult(name="verify", outcome="problems", exit_code=1, sentence="3 damaged (3 wrong-digest)"),
        ],
        "findings": [f"wrong-digest  renders/p/{number}.pdf" for number in range(7)],
        "next": "craftkit-archive repair SOURCE",
        "page": "/srv/archive/night.html",
    }
    return Notice(**(given | fields))


def good_night(**fields: Any) -> Notice:
    """Return the notice of a night that found nothing."""
    return night(
        **({"outcome": "ok", "exit_code": 0, "sentence": "all is well", "findings": [], "next": None} | fields)
    )


# --- the notice -------------------------------------------------------------------------------------------------------


def test_the_text_holds_what_happened_the_steps_the_five_worst_findings_and_what_to_do() -> None:
    text = night().as_text()
    assert text.startswith("3 PDFs damaged\n\n")
    for part in ("/srv/archive on vault1", "problems (exit code 1)", "import  ok        12 inserted", "  and 2 more"):
        assert part in text
    assert text.count("wrong-digest  renders/") == 5
    assert "Next\n  craftkit-archive repair SOURCE\n" in text
    assert "Page: /srv/archive/night.html" in text
    assert night().subject() == "craftkit-archive: problems on vault1: 3 PDFs damaged"


def test_the_json_is_the_notice() -> None:
    found = json.loads(night().as_json())
    assert found["type"] == "notice"
    assert found["findings"] == [f"wrong-digest  renders/p/{number}.pdf" for number in range(5)]
    assert found["more"] == 2
    assert found["steps"][1] == {
        "name": "verify", "outcome": "problems", "exit_code": 1, "sentence": "3 damaged (3 wrong-digest)",
    }  # fmt: skip
    assert msgspec.json.decode(night().as_json(), type=Notice) == night()


ANY_TEXT = st.text(st.characters(), min_size=1, max_size=60) | st.sampled_from(
    [
        "a\nBcc: x@y",
        "\r\n\r\nbody",
        "\x1b[2J",
        "\udcff",
        "‮abc",
        "\0",
        "ck_live_SAMPLEnorthwind0001",
        "x" * 5000,
        "é" * 999,
    ]
)


@settings(max_examples=40, deadline=None)
@given(text=ANY_TEXT, findings=st.lists(ANY_TEXT, max_size=8))
def test_no_name_steers_a_terminal_adds_a_line_or_a_header(text: str, findings: list[str]) -> None:
    notice = night(
        host=text, sentence=text, findings=findings, next=text, archive=text, page=text, outcome=text,
        steps=[StepResult(name=text, outcome=text, sentence=text)],
    )  # fmt: skip
    assert notice.subject().isprintable()
    body = notice.as_text()
    assert body.replace("\n", "").isprintable()
    assert body.count("\n") == night(findings=findings).as_text().count("\n") - 1  # one step less
    assert "SAMPLEnorthwind" not in body
    assert json.loads(notice.as_json())["findings"] == notice.findings
    message = message_from_bytes(write_message(mail_settings(), notice, utc_now).as_bytes(), policy=policy.default)
    assert set(message) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding",
        "MIME-Version",
    }  # fmt: skip
    # A reader of mail brings runs of blanks in a header together, and so does Python's.
    assert "".join(message["Subject"].split()) == "".join(notice.subject().split())
    assert message.get_content().replace("\r\n", "\n") == body


@settings(max_examples=40, deadline=None)
@given(notice=st.builds(night, sentence=ANY_TEXT, host=ANY_TEXT, findings=st.lists(ANY_TEXT, max_size=3)))
def test_a_message_is_ascii_in_lines_that_every_server_takes(notice: Notice) -> None:
    """Source: RFC 5322, section 2.1.1."""
    sent = write_message(mail_settings(), notice, utc_now).as_bytes()
    assert sent.isascii()
    assert all(len(line) <= 998 for line in sent.split(b"\r\n"))
    assert b"\n" not in sent.replace(b"\r\n", b"")
    assert b"\r" not in sent.replace(b"\r\n", b"")


@given(findings=st.lists(st.text(max_size=4), max_size=6), data=st.data())
def test_the_state_depends_on_what_was_found_and_not_on_its_order(findings: list[str], data: st.DataObject) -> None:
    steps = [StepResult(name="verify", outcome="problems", sentence="3 damaged")]
    state = state_of("problems", steps, findings)
    assert state == state_of("problems", steps, data.draw(st.permutations(findings)))
    assert state == state_of("problems", [StepResult(name="verify", outcome="problems", sentence="other")], findings)
    assert state != state_of("ok", steps, findings)
    assert state != state_of("problems", [], findings)
    assert state != state_of("problems", steps, [*findings, data.draw(st.text(max_size=4))])


# --- the settings -----------------------------------------------------------------------------------------------------


def mail_settings(**fields: Any) -> Smtp:
    """Return settings for mail."""
    return Smtp(**({"host": "127.0.0.1", "sender": "archive@example.org", "to": ["ops@example.org"]} | fields))


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"ping": "hc-ping.com/x"}, "ping: this is not a URL"),
        ({"ping": "ftp://h/x"}, "ping"),
        ({"webhook": "https://u:S3cret@h/x"}, "must not hold a password"),
        ({"webhook": "https://h/x y"}, "webhook"),
        ({"webhook": "https://h/x\r\nHost: y"}, "webhook"),
        ({"webhook": "https://h:99999/S3cret"}, "webhook"),
        ({"webhook": "https://h/S3cret#x"}, "fragment"),
        ({"ping": ""}, "ping"),
        ({"command": []}, "command: no program"),
        ({"command": [""]}, "command: no program"),
        ({"mail": {"host": "", "sender": "a@b", "to": ["c@d"]}}, "host"),
        ({"mail": {"host": "h", "sender": "a@b", "to": ["c@d"], "user": ""}}, "user"),
        ({"command": ["a", "b\0"]}, "NUL"),
        ({"timeout": "2h"}, "timeout"),
        ({"timeout": "0s"}, "timeout"),
        ({"timeout": "soon"}, "Invalid duration"),
        ({"when": "sometimes"}, "when"),
        ({"whom": "x"}, "whom"),
        ({"mail": {"host": "h", "sender": "a@b", "to": []}}, "to"),
        ({"mail": {"host": "h", "sender": "a@b\nBcc: c@d", "to": ["e@f"]}}, "sender"),
        ({"mail": {"host": "h", "sender": "a@b", "to": ["c@d, e@f"]}}, "to: 'c@d, e@f'"),
        ({"mail": {"host": "h x", "sender": "a@b", "to": ["c@d"]}}, "host"),
        ({"mail": {"host": "h", "sender": "a@b", "to": ["c@d"], "port": 0}}, "port"),
        ({"mail": {"host": "h", "sender": "a@b", "to": ["c@d"], "password": "S3cret"}}, "password"),
        ({"mail": {"host": "h", "sender": "a@b", "to": ["c@d"], "security": "none", "user": "u"}}, "security"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(table: dict[str, Any], match: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=match) as raised:
        msgspec.convert(table, Notify)
    assert "S3cret" not in str(raised.value)


def test_the_port_follows_from_the_security() -> None:
    assert [mail_settings(security=kind).effective_port for kind in ("starttls", "tls", "none")] == [587, 465, 25]
    assert mail_settings(port=2525).effective_port == 2525


@settings(deadline=None)
@given(st.text(st.characters(), max_size=30) | st.from_regex(r"\A[\w \"<>@.,;()]{0,30}\Z"))
def test_an_address_is_one_address_or_refused(text: str) -> None:
    try:
        address = parse_mailbox("to", text)
    except ValueError as error:
        assert str(error).startswith("to: ")  # noqa: PT017 - either outcome is right
    else:
        written = write_message(mail_settings(to=[text], sender=text), night(), utc_now).as_bytes()
        message = message_from_bytes(written, policy=policy.default)
        assert len(message["To"].addresses) == 1
        assert address.username in written.decode()


@pytest.mark.parametrize(
    "text", ["root", "a@b", "A B <a@b.org>", '"B, A" <a@b.org>', "<a@b>", "Ä <a@b>", "ü@bücher.de"]
)
def test_addresses_are_taken_as_people_write_them(text: str) -> None:
    assert parse_mailbox("to", text).addr_spec.strip("<>") in text


def test_the_page_on_notifications_names_all_that_there_is() -> None:
    page = (ROOT / "docs/notify.md").read_text()
    table = tomllib.loads(page.partition("```toml\n")[2].partition("```")[0])
    example = msgspec.convert(table["notify"], Notify)
    assert example.mail is not None
    assert set(table["notify"]) | {"mail"} == {field.encode_name for field in msgspec.structs.fields(Notify)}
    assert set(table["notify"]["mail"]) | {"port"} == {field.encode_name for field in msgspec.structs.fields(Smtp)}
    for name in (*Notice.__struct_fields__, *StepResult.__struct_fields__, *SECRETS, "CRAFTKIT_API_KEY"):
        assert f"`{name}`" in page, name


# --- when -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["problems", "change", "always"])
@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("previous", [None, "same", "other"])
def test_pings_go_always_and_the_rest_when_it_is_wanted(
    receiver: Receiver, when: str, good: bool, previous: str | None
) -> None:
    notice = (good_night if good else night)(state="same")
    notify = msgspec.convert({"when": when, "ping": f"{receiver.url}/ping", "webhook": f"{receiver.url}/hook"}, Notify)
    assert announce_end(notify, notice, previous) == []
    paths = sorted(request.path for request in receiver.got)
    wanted = {"problems": not good, "change": previous != "same", "always": True}[when]
    assert paths == [*(["/hook"] if wanted else []), "/ping" if good else "/ping/fail"]


def test_a_night_that_stopped_at_its_limit_is_a_good_one(receiver: Receiver) -> None:
    assert announce_end(Notify(ping=receiver.url), good_night(outcome="limited", exit_code=101), None) == []
    assert [request.path for request in receiver.got] == ["/"]


def test_nobody_to_tell_is_no_trouble() -> None:
    assert announce_start(Notify()) == announce_end(Notify(), night(), None) == []
    assert list(try_outlets(Notify(), night())) == [Summary("notify test", "ok", counts={"sent": 0, "failed": 0})]


# --- HTTP -------------------------------------------------------------------------------------------------------------


def test_a_ping_says_that_it_began_and_how_it_ended(receiver: Receiver) -> None:
    notify = Notify(ping=f"{receiver.url}/key/slug?create=1")
    assert announce_start(notify) == []
    assert announce_end(notify, good_night(), None) == []
    assert announce_end(notify, night(), None) == []
    assert [request.path for request in receiver.got] == [
        "/key/slug/start?create=1", "/key/slug?create=1", "/key/slug/fail?create=1",
    ]  # fmt: skip
    assert receiver.got[0].body == b""
    assert receiver.got[2].body.decode() == night().as_text()


def test_a_webhook_gets_the_notice_as_json_with_its_token(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN", "S3cret")
    assert announce_end(Notify(webhook=f"{receiver.url}/hook"), night(), None) == []
    [request] = receiver.got
    assert request.headers["authorization"] == "Bearer S3cret"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("craftkit-archive/")
    assert msgspec.json.decode(request.body, type=Notice) == night()


def test_urls_that_are_secrets_come_before_those_of_the_file(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hook").write_text(f"{receiver.url}/secret-hook\n")
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_PING_URL", f"{receiver.url}/secret-ping")
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_WEBHOOK_URL_FILE", str(tmp_path / "hook"))
    for notify in (Notify(), Notify(ping="http://127.0.0.1:1", webhook="http://127.0.0.1:1")):
        receiver.got.clear()
        assert announce_start(notify) == announce_end(notify, night(), None) == []
        paths = [request.path for request in receiver.got]
        assert sorted(paths) == ["/secret-hook", "/secret-ping/fail", "/secret-ping/start"]


@pytest.mark.parametrize("answers", [[500, 200], [503, 429, 200], ["break", 200], ["hang", 204]])
def test_a_service_that_recovers_is_asked_again(receiver: Receiver, answers: list[Answer]) -> None:
    receiver.answers = list(answers)
    assert announce_end(Notify(webhook=receiver.url, timeout=LIMIT), night(), None) == []
    assert len(receiver.got) == len(answers)
    assert len({request.body for request in receiver.got}) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("answers", "said", "asked"),
    [
        ([500, 500, 500], "answered 500 3 times. Check that service.", 3),
        ([400], "answered 400. Check the URL.", 1),
        ([401], "Check CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN", 1),
        ([404], "answered 404. Check the URL.", 1),
        ([302], "redirects to another path (302)", 1),
        (["break"] * 3, "broke off", 3),
        (["echo"] * 3, "does not speak HTTP", 3),
        (["hang"] * 3, "did not answer in time, 3 times", 3),
        (["drip"] * 3, "did not answer", None),
        (["endless"] * 3, "answered 500 3 times", 3),
        (["continue"] * 3, "did not answer", None),
    ],
)
def test_a_service_with_faults_is_a_sentence_in_time_without_a_secret(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, answers: list[Answer], said: str, asked: int | None
) -> None:
    receiver.answers = list(answers)
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN", "S3cret")
    began = time.monotonic()
    [sentence] = announce_end(Notify(webhook=f"{receiver.url}/S3cret", timeout=LIMIT), night(), None)
    assert time.monotonic() - began < 4
    assert sentence.startswith("Cannot notify by webhook: ")
    assert said in sentence
    assert "S3cret" not in sentence
    assert asked is None or len(receiver.got) == asked


def test_a_service_that_takes_it_and_then_talks_without_end_is_left_talking(receiver: Receiver) -> None:
    receiver.answers = ["flood"]
    began = time.monotonic()
    assert announce_end(Notify(webhook=receiver.url, timeout="10s"), night(), None) == []
    assert time.monotonic() - began < 5


def test_a_redirection_is_not_followed_with_a_token(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN", "S3cret")
    with http_receiver() as other:
        receiver.answers, receiver.location = [307], f"{other.url}/S3cret"
        [sentence] = announce_end(Notify(webhook=receiver.url), night(), None)
        assert f"redirects to {other.url} (307). Write the new URL." in sentence
        assert other.got == []


def test_a_service_that_is_not_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    [sentence] = announce_start(Notify(ping=f"http://127.0.0.1:{port}/S3cret", timeout=LIMIT))
    assert sentence == (
        f"Cannot notify by ping: http://127.0.0.1:{port} cannot be reached (connection refused). Check the URL and the"
        " network."
    )
    [sentence] = announce_start(Notify(ping="http://nobody.invalid/S3cret", timeout=LIMIT))
    assert "S3cret" not in sentence


def test_a_certificate_has_to_be_trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver(certificate) as receiver:
        [sentence] = announce_end(Notify(webhook=receiver.url, timeout="5s"), night(), None)
        assert "Set SSL_CERT_FILE" in sentence
        assert receiver.got == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert announce_end(Notify(webhook=receiver.url, timeout="5s"), night(), None) == []


def test_a_token_that_a_header_cannot_hold_is_not_shown(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN", "S3cret\r\nX: é")
    [sentence] = announce_end(Notify(webhook=receiver.url), night(), None)
    assert "CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN is not a token" in sentence
    assert "S3cret" not in sentence
    assert receiver.got == []


def test_requests_go_through_the_proxy_of_the_environment(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", receiver.url)
    assert announce_start(Notify(ping="http://hc.example.org/key")) == []
    assert [request.path for request in receiver.got] == ["http://hc.example.org/key/start"]


# --- a program --------------------------------------------------------------------------------------------------------


def script(tmp_path: Path, text: str) -> list[str]:
    """Return the command that runs a script."""
    file = tmp_path / "tell"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return [str(file), "word"]


def test_a_command_gets_the_notice_and_its_outcome(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = script(
        tmp_path, f'cat > {out}; echo "$1 $NOTICE_OUTCOME $NOTICE_EXIT_CODE $NOTICE_HOST" >> {out}; echo loud'
    )
    assert announce_end(Notify(command=words), night(), None) == []
    notice, _, said = out.read_text().partition("}word")
    assert json.loads(f"{notice}}}") == json.loads(night().as_json())
    assert said == " problems 1 vault1\n"


def test_a_command_that_reads_nothing_of_a_large_notice_is_fine(tmp_path: Path) -> None:
    steps = [StepResult(name="x", outcome="ok", sentence="y" * 1000)] * 1000
    assert announce_end(Notify(command=["true"]), night(steps=steps), None) == []
    assert announce_end(Notify(command=script(tmp_path, "exec <&-; exec >&-")), night(steps=steps), None) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 7", "tell ended with exit code 7. Run it by hand to see why."),
        ("echo S3cret >&2; kill -9 $$", "tell was ended by signal 9"),
        ("exec /S3cret", "exit code"),
    ],
)
def test_a_command_that_fails_is_said(tmp_path: Path, text: str, said: str) -> None:
    [sentence] = announce_end(Notify(command=script(tmp_path, text)), night(), None)
    assert said in sentence
    assert "S3cret" not in sentence


def test_a_command_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    for words, why in (([f"{tmp_path}/none"], "no such file"), ([f"{tmp_path}/data"], "permission denied")):
        [sentence] = announce_end(Notify(command=words), night(), None)
        assert why in sentence


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    [
        "sleep 60",
        "trap '' TERM INT HUP; while :; do sleep 1; done",
        "sleep 60 & (sleep 60; sleep 60) & wait",
        "yes; sleep 60",
    ],
)
def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path, text: str) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    [sentence] = announce_end(
        Notify(command=script(tmp_path, f"echo $$ > {pid}\n{text}"), timeout=LIMIT), night(), None
    )
    assert time.monotonic() - began < 4
    assert "did not end within 2 s, and was killed" in sentence
    wait_until(lambda: not _is_group(int(pid.read_text())))


def _is_group(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    # What init has not collected yet is a member still.
    states = [Path(f"/proc/{one}/stat") for one in os.listdir("/proc") if one.isdigit()]  # noqa: PTH208
    for file in states:
        try:
            _, _, rest = file.read_text().rpartition(") ")
        except OSError:
            continue
        state, _, group = rest.split()[:3]
        if int(group) == pid and state != "Z":
            return True
    return False


def test_a_command_may_leave_something_running(tmp_path: Path) -> None:
    began = time.monotonic()
    assert announce_end(Notify(command=script(tmp_path, "sleep 3 & exit 0")), night(), None) == []
    assert time.monotonic() - began < 3


# --- e-mail -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Requiring AUTH:UserWarning:aiosmtpd")  # it does not see the TLS around it
@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_mail_goes_by_tls_with_a_log_in(certificate: Path, monkeypatch: pytest.MonkeyPatch, tls: Any) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_SMTP_PASSWORD", "S3cret p@ss")
    with smtp_server(certificate, tls=tls, password="S3cret p@ss") as server:
        mail = mail_settings(
            port=server.port, security=tls, user="archive", to=["ops@example.org", "Büro <records@example.org>"],
            sender="The archive <archive@example.org>",
        )  # fmt: skip
        assert announce_end(Notify(mail=mail), night(host="vault-é", sentence="3 PDFs in Köln damaged"), None) == []
    [message], [recipients], [login] = server.got, server.recipients, server.logins
    assert recipients == ["ops@example.org", "records@example.org"]
    assert "archive" in (login or "")
    assert tls == "tls" or login == "archive"
    assert message["Subject"] == "craftkit-archive: problems on vault-é: 3 PDFs in Köln damaged"
    assert message["From"] == "The archive <archive@example.org>"
    assert message["To"] == "ops@example.org, Büro <records@example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime.utcoffset() is not None
    assert message["Message-ID"].endswith("@example.org>")
    assert message.get_content_type() == "text/plain"
    body = message.get_content().replace("\r\n", "\n")
    assert body == night(host="vault-é", sentence="3 PDFs in Köln damaged").as_text()


def test_mail_goes_to_a_local_server_without_tls() -> None:
    with smtp_server() as server:
        mail = mail_settings(port=server.port, security="none", to=["root"], sender="archive")
        assert announce_end(Notify(mail=mail), night(), None) == []
    assert server.recipients == [["root"]]


def test_addresses_beyond_ascii_go_to_a_server_that_takes_them() -> None:
    with smtp_server() as server:
        mail = mail_settings(port=server.port, security="none", to=["müller@bücher.example"])
        assert announce_end(Notify(mail=mail), night(), None) == []
    assert server.recipients == [["müller@bücher.example"]]


def mail_fault(server_port: int, **fields: Any) -> str:
    """Return the one sentence on a mail that did not go out."""
    [sentence] = announce_end(Notify(mail=mail_settings(port=server_port, **fields), timeout=LIMIT), night(), None)
    head = "Cannot notify by mail: "
    assert sentence.startswith((f"{head}127.0.0.1:{server_port} ", f"{head}it did not answer within 2 s"))
    assert "S3cret" not in sentence
    return sentence


def test_mail_that_is_refused_is_said(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with smtp_server(certificate, password="right") as server:
        assert "Set SSL_CERT_FILE" in mail_fault(server.port)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert "needs the password of me. Set CRAFTKIT_ARCHIVE_SMTP_PASSWORD." in mail_fault(server.port, user="me")
        monkeypatch.setenv("CRAFTKIT_ARCHIVE_SMTP_PASSWORD", "S3cret")
        assert "refuses the user or the password (535). Check them." in mail_fault(server.port, user="me")
        assert "whether the server wants a user" in mail_fault(server.port)
        monkeypatch.setenv("CRAFTKIT_ARCHIVE_SMTP_PASSWORD", "S3crét")
        assert "not ASCII" in mail_fault(server.port, user="me")
        assert server.got == []
    with smtp_server() as server:
        assert "lacks what is asked of it" in mail_fault(server.port)  # it has no STARTTLS
        assert "does not speak TLS there" in mail_fault(server.port, security="tls")
        server.refuse = {"gone@example.org"}
        refused = {"security": "none", "to": ["gone@example.org"]}
        assert "refuses gone@example.org (550)" in mail_fault(server.port, **refused)
        refused["to"] = ["gone@example.org", "ops@example.org"]
        assert "refused gone@example.org, and took it for the others" in mail_fault(server.port, **refused)
        assert server.recipients == [["ops@example.org"]]
    assert "cannot be reached (connection refused)" in mail_fault(server.port)


@pytest.mark.parametrize(
    ("lines", "pause_s", "endless", "said"),
    [
        ([], 0, b"", "broke off"),
        ([b"554 S3cret\r\n"], 0, b"", "refuses the message (554)"),
        ([b"HTTP/1.1 400 S3cret\r\n\r\n"], 0, b"", ""),
        ([b"220 hello\r\n" * 20], 0.2, b"", "did not answer"),
        ([b"220 hello\r\n"], 0, b"250-x\r\n" * 1000, "did not answer"),
        (
            [b"220 hello\r\n", b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"452 S3cret\r\n"],
            0,
            b"",
            "(452)",
        ),
        ([b"220 hello\r\n", b"250 ok\r\n", b"553 S3cret\r\n", b"250 ok\r\n"], 0, b"", "refuses the sender (553)"),
        ([b"\xff" * 70_000], 0, b"", ""),
    ],
)
def test_a_mail_server_with_faults_is_a_sentence_in_time(
    lines: list[bytes], pause_s: float, endless: bytes, said: str
) -> None:
    with talking(*lines, pause_s=pause_s, endless=endless) as port:
        began = time.monotonic()
        assert said in mail_fault(port, security="none")
        assert time.monotonic() - began < 4


@pytest.mark.long
def test_a_mail_server_that_talks_without_end_is_not_listened_to_any_longer() -> None:
    with talking(b"220 hello\r\n", endless=b"250-x\r\n" * 1000) as port:
        mail_fault(port, security="none")
        wait_until(lambda: not any(one.name == "notify mail" for one in threading.enumerate()))


def test_a_mail_server_that_hangs_at_the_farewell_has_the_message() -> None:
    lines = [b"220 a\r\n", b"250 b\r\n", b"250 c\r\n", b"250 d\r\n", b"354 e\r\n", b"250 f\r\n"]
    with talking(*lines, b"", b"") as port:
        assert announce_end(Notify(mail=mail_settings(port=port, security="none"), timeout=LIMIT), night(), None) == []


# --- Apprise ----------------------------------------------------------------------------------------------------------


def test_apprise_tells_what_it_is_named(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_APPRISE_URLS", f"{receiver.url.replace('http', 'json')}/one\n")
    assert announce_end(Notify(apprise=True), night(), None) == []
    [request] = receiver.got
    found = json.loads(request.body)
    assert (request.path, found["type"], found["title"]) == ("/one", "failure", night().subject())
    assert found["message"].strip() == night().as_text().strip()
    assert announce_end(Notify(), night(), None) == []
    assert len(receiver.got) == 1


def test_each_service_of_apprise_is_told_alone(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = receiver.url.replace("http", "json")
    urls = f"jsons://127.0.0.1:1/S3cret {url}/one nothing://S3cret {url}/two S3cret://x\tS3cret"
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_APPRISE_URLS", urls)
    faults = announce_end(Notify(apprise=True, timeout="10s"), night(), None)
    assert sorted(request.path for request in receiver.got) == ["/one", "/two"]
    assert len(faults) == 4
    assert "service 1 (jsons://…) did not take the notice" in faults[0]
    assert "service 3 (nothing://…) is not a service that Apprise knows" in faults[1]
    assert "service 6 (its URL…)" in faults[3]
    assert not any("127.0.0.1" in fault for fault in faults)
    assert "S3cret" not in "".join(capfd.readouterr())


def test_apprise_that_is_missing_or_has_nobody_to_tell_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    [sentence] = announce_end(Notify(apprise=True), night(), None)
    assert "Set CRAFTKIT_ARCHIVE_APPRISE_URLS" in sentence
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_APPRISE_URLS", "json://h")
    monkeypatch.setitem(sys.modules, "apprise", None)
    [sentence] = announce_end(Notify(apprise=True), night(), None)
    assert f"{sys.executable} -m pip install 'craftkit-archive[notify]'" in sentence


def test_apprise_that_hangs_holds_nothing_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.answers = ["drip"]
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_APPRISE_URLS", receiver.url.replace("http", "json"))
    began = time.monotonic()
    [sentence] = announce_end(Notify(apprise=True, timeout=LIMIT), night(), None)
    assert "did not answer within 2 s" in sentence
    assert time.monotonic() - began < 4


@pytest.mark.long
def test_a_program_ends_whatever_still_hangs(receiver: Receiver) -> None:
    """Nothing that was given up keeps the process: Python waits for some threads, without end."""
    receiver.answers = ["drip"] * 2
    text = f"""
import os
from craftkit_archive.notify.send import announce_end
from craftkit_archive.notify.settings import Notify
from craftkit_archive.notify.message import write_trial
os.environ["CRAFTKIT_ARCHIVE_APPRISE_URLS"] = "{receiver.url.replace("http", "json")}"
notify = Notify(webhook="{receiver.url}", apprise=True, when="always", timeout="4s")
print(len(announce_end(notify, write_trial("a", "b", "c"), None)))
"""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=40, check=True
    )
    assert (done.stdout, done.stderr) == ("2\n", "")
    assert time.monotonic() - began < 30  # a receiver that drips does so for minutes


# --- everybody --------------------------------------------------------------------------------------------------------


def test_one_dead_outlet_holds_up_no_other_and_all_share_one_time_out(receiver: Receiver, tmp_path: Path) -> None:
    with http_receiver() as dead, talking(pause_s=1) as silent, smtp_server() as _:
        dead.answers = ["hang"] * 9
        notify = Notify(
            ping=f"{dead.url}/ping", webhook=f"{receiver.url}/hook", command=["sleep", "60"], timeout=LIMIT,
            mail=mail_settings(port=silent, security="none"),
        )  # fmt: skip
        began = time.monotonic()
        faults = announce_end(notify, night(), None)
        assert time.monotonic() - began < 4
    assert [fault.split()[3] for fault in faults] == ["ping:", "command:", "mail:"]
    assert [request.path for request in receiver.got] == ["/hook"]


def test_a_secret_that_cannot_be_read_is_said_and_the_others_are_told(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "S3cret"))
    (tmp_path / "hook").write_text(receiver.url)
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_WEBHOOK_URL_FILE", str(tmp_path / "hook"))
    monkeypatch.delenv("CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN_FILE")
    notify = Notify(mail=mail_settings(user="me"), apprise=True)
    faults = [*announce_start(notify), *announce_end(notify, night(), None)]
    named = [fault.split(": ")[1] for fault in faults]
    assert [fault.split()[3] for fault in faults] == ["ping:", "ping:", "mail:", "apprise:"]
    assert all(text.startswith("Cannot read the file that CRAFTKIT_ARCHIVE_") for text in named)
    assert len(receiver.got) == 1


def test_a_bug_in_an_outlet_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    def fail(*_given: object) -> str:
        raise ZeroDivisionError("S3cret")

    monkeypatch.setattr(outlets.Webhook, "deliver", fail)
    notify = Notify(webhook=receiver.url, ping=receiver.url)
    assert announce_end(notify, night(), None) == [
        "Cannot notify by webhook: it failed with ZeroDivisionError. Please report this."
    ]
    assert len(receiver.got) == 1


def test_a_trial_goes_to_everybody_and_says_who_got_it(receiver: Receiver) -> None:
    notify = Notify(ping=f"{receiver.url}/ping", webhook=f"{receiver.url}/hook", command=["false"], when="problems")
    notice = write_trial("/srv/archive", "vault1", "2026-06-05T01:00:00.000Z")
    *seen, summary = try_outlets(notify, notice)
    assert seen == [
        Diagnosis("ping", f"sent to {receiver.url}"),
        Diagnosis("webhook", f"sent to {receiver.url}"),
        Diagnosis(
            "command",
            "it did not arrive",
            "false ended with exit code 1. Run it by hand to see why.",
            problem="not-delivered",
        ),
    ]
    assert summary == Summary("notify test", "problems", exit_code=16, counts={"sent": 2, "failed": 1})
    assert sorted(request.path for request in receiver.got) == ["/hook", "/ping"]
    assert "nothing is wrong" in json.loads(next(one.body for one in receiver.got if one.path == "/hook"))["sentence"]


# --- the command and the configuration --------------------------------------------------------------------------------


def configured(world: World, text: str) -> Path:
    """Give an archive a configuration, and return it."""
    file = world.archive.path / "craftkit-archive.toml"
    file.write_text(text)
    return file


def test_the_command_sends_a_test_to_everybody_and_says_who_got_it(world: World, receiver: Receiver) -> None:
    configured(world, f'[notify]\nping = "{receiver.url}/S3cret"\ncommand = ["true"]\n')
    done = command("notify", "test", archive=world.archive.path)
    assert (done.code, done.out) == (0, f"good  ping: sent to {receiver.url}\ngood  command: sent to true\n")
    assert [request.path for request in receiver.got] == ["/S3cret"]
    assert command("--quiet", "notify", "test", archive=world.archive.path) == Done(0, "", "")


def test_the_command_ends_with_16_if_somebody_was_not_reached(world: World, receiver: Receiver) -> None:
    receiver.answers = [404] * 3
    configured(world, f'[notify]\nwebhook = "{receiver.url}/S3cret"\ncommand = ["true"]\n')
    done = command("--json", "notify", "test", archive=world.archive.path)
    assert done.code == 16
    *seen, summary = map(json.loads, done.out.splitlines())
    assert [one["fix"] for one in seen] == [f"{receiver.url} answered 404. Check the URL.", None]
    assert (summary["exit_code"], summary["counts"]) == (16, {"sent": 1, "failed": 1})
    for words in ((), ("--quiet",)):
        done = command(*words, "notify", "test", archive=world.archive.path)
        assert f"FIX   webhook: it did not arrive. {receiver.url} answered 404. Check the URL." in done.out + done.err
        assert (done.code, "S3cret" in done.out + done.err) == (16, False)


def test_the_command_says_where_to_name_somebody(world: World) -> None:
    done = command("notify", "test", archive=world.archive.path)
    assert done.code == 2
    assert "Nobody is named to notify. Fill in the table [notify] of" in done.err


def test_secrets_alone_name_somebody(world: World, receiver: Receiver) -> None:
    env = {"CRAFTKIT_ARCHIVE_PING_URL": f"{receiver.url}/S3cret"}
    done = command("notify", "test", archive=world.archive.path, env=env)
    assert (done.code, done.out) == (0, f"good  ping: sent to {receiver.url}\n")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('ping = "hc-ping.com/x"', 2, "ping: this is not a URL"),
        ('timeout = "20s"\n\n[notify.mail]\nhost = "h"\nsender = "x y"\nto = ["a@b"]', 6, "sender: 'x y' is not"),
        ('timeout = "20s"\n[notify.mail]\nhost = "h"\nport = 0\nsender = "x"\nto = ["a@b"]', 5, "port: expected"),
        ('[notify.mail]\nhost = "h"', 2, "sender"),
        ('when = "changes"', 2, "when: expected"),
        ('whem = "change"', 2, "Did you mean 'when'?"),
        ('webhook = "https://u:S3cret@h/"', 2, "looks like a secret"),
        ('[notify.mail]\nhost = "h"\npassword = "S3cret"', 4, "looks like a secret"),
        ('command = "tell ops"', 2, "command: expected"),
    ],
)
def test_a_mistake_in_the_configuration_is_named_with_its_line(world: World, text: str, line: int, said: str) -> None:
    file = configured(world, f"[notify]\n{text}\n")
    done = command("notify", "test", archive=world.archive.path)
    assert done.code == 2
    assert str(file) in done.err
    assert f"line {line}: " in done.err
    assert said in done.err
    assert "S3cret" not in done.err


def test_no_secret_for_notifications_is_taken_for_a_mistyped_variable(world: World) -> None:
    env = dict.fromkeys([*SECRETS, *(f"{name}_FILE" for name in SECRETS)], "x")
    assert "sets nothing" not in command("config", "show", archive=world.archive.path, env=env).err


TOKENS = st.text("ABCabc0123456789-._~:@!$&'()*+,;=%", min_size=1, max_size=20).map("S3cret{}".format)
FAULTS: list[Callable[[], Answer]] = [lambda: "echo", lambda: "break", lambda: 302, lambda: 403, lambda: 404]


@settings(max_examples=30, deadline=None)
@given(path=TOKENS, query=TOKENS, token=TOKENS, fault=st.sampled_from(FAULTS))
def test_no_sentence_holds_a_part_of_a_secret(
    shared_receiver: Receiver, path: str, query: str, token: str, fault: Callable[[], Answer]
) -> None:
    shared_receiver.answers = [fault()] * 6
    shared_receiver.location = f"/{path}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRAFTKIT_ARCHIVE_WEBHOOK_URL", f"{shared_receiver.url}/{path}?{query}")
        patch.setenv("CRAFTKIT_ARCHIVE_PING_URL", f"{shared_receiver.url}/{path}?{query}")
        patch.setenv("CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN", token)
        faults = announce_end(Notify(timeout=LIMIT), night(), None)
    assert len(faults) == 2
    assert "S3cret" not in "".join(faults)


@pytest.fixture(scope="module")
def shared_receiver() -> Iterator[Receiver]:
    """Return an HTTP receiver for many examples."""
    with http_receiver() as receiver:
        yield receiver


def test_nothing_is_logged(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even for those who ask for everything: urllib3 and Apprise log whole URLs."""
    receiver.answers = [500, "break", 200, 500]
    monkeypatch.setenv("CRAFTKIT_ARCHIVE_APPRISE_URLS", f"{receiver.url.replace('http', 'json')}/S3cret")
    with caplog.at_level(logging.DEBUG):
        announce_end(Notify(webhook=f"{receiver.url}/S3cret", timeout=LIMIT), night(), None)
        announce_end(Notify(apprise=True), night(), None)
    assert receiver.answers == []
    assert "S3cret" not in caplog.text
