"""The table `[notify]` of a configuration: whom to notify. It holds no secrets; `read_secret` finds those."""

import re
from email.headerregistry import Address
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from craftkit_archive.values import parse_duration

# The secrets, as variables; `read_secret` also finds them as files and systemd credentials.
PING_URL = "CRAFTKIT_ARCHIVE_PING_URL"
WEBHOOK_URL = "CRAFTKIT_ARCHIVE_WEBHOOK_URL"
WEBHOOK_TOKEN = "CRAFTKIT_ARCHIVE_WEBHOOK_TOKEN"  # noqa: S105 - its name
SMTP_PASSWORD = "CRAFTKIT_ARCHIVE_SMTP_PASSWORD"  # noqa: S105 - its name
APPRISE_URLS = "CRAFTKIT_ARCHIVE_APPRISE_URLS"

MAX_TIMEOUT_SECONDS = 60
PORTS = {"starttls": 587, "tls": 465, "none": 25}

Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class Smtp(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """E-mail: the server, the sender and the recipients. The password is a secret.

    Attributes:
        security: `starttls` and `tls` check the server's certificate, and send nothing if it is not trusted; `none` is
            for a server on this machine or on a trusted network, and allows no user.
        port: If not given, 587 for `starttls`, 465 for `tls`, 25 for `none`.
        user: The user to log in as; without one, there is no login.
    """

    host: str
    port: Port | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    sender: str
    to: list[str]

    def __post_init__(self) -> None:
        """Check what the types cannot express.

        Raises:
            ValueError: An address is not valid, or a password would be sent unencrypted.
        """
        if not _HOST.fullmatch(self.host):
            raise ValueError(f"host: {self.host!r} is not the name of a server")
        if self.user == "":
            raise ValueError("user: it is empty. Remove it if nobody has to log in")
        if self.user is not None and self.security == "none":
            raise ValueError("user: a password needs security = 'starttls' or 'tls'")
        parse_mailbox("sender", self.sender)
        if not self.to:
            raise ValueError("to: nobody is named")
        for one in self.to:
            parse_mailbox("to", one)

    @property
    def effective_port(self) -> int:
        """The port, or the usual one if it is not given."""
        return self.port or PORTS[self.security]


class Notify(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Whom to notify of how a night ended, and when.

    Attributes:
        when: `problems` reports nights that were not good; `change` reports nights whose outcome or findings differ
            from the night before; `always` reports every night. Pings are always sent: their absence is an alarm.
        ping: The URL of a dead man's switch, such as healthchecks.io: `URL/start` is requested when a night begins,
            `URL` if it was good, `URL/fail` if it was not.
        webhook: A URL to which the notice is posted as JSON.
        command: A program and its arguments; it receives the notice as JSON on its standard input.
        apprise: Whether to notify the services whose Apprise URLs are in the secret `CRAFTKIT_ARCHIVE_APPRISE_URLS`.
        timeout: How long to wait for all of them together, such as `20s`; a minute at most.
    """

    when: Literal["problems", "change", "always"] = "problems"
    ping: str | None = None
    webhook: str | None = None
    command: list[str] | None = None
    mail: Smtp | None = None
    apprise: bool = False
    timeout: str = "20s"

    def __post_init__(self) -> None:
        """Check what the types cannot express.

        Raises:
            ValueError: A URL or the time-out is not valid.
        """
        for name in ("ping", "webhook"):
            if (url := getattr(self, name)) is not None:
                try:
                    check_url(url)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
        try:
            seconds = parse_duration(self.timeout)
        except ValueError as error:
            raise ValueError(f"timeout: {error}") from error
        if not 1 <= seconds <= MAX_TIMEOUT_SECONDS:
            raise ValueError(f"timeout: {self.timeout} is not between 1s and {MAX_TIMEOUT_SECONDS}s")
        if self.command is not None and not any(self.command[:1]):
            raise ValueError("command: no program is named")
        if self.command and any("\0" in word for word in self.command):
            raise ValueError("command: a word has a NUL character")

    @property
    def timeout_s(self) -> int:
        """The time-out in seconds."""
        return parse_duration(self.timeout)


_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]+")


def check_url(url: str) -> str:
    """Return the URL if it is a valid one of http or https, without a password or a fragment.

    Raises:
        ValueError: It is not; the message does not quote it, because it may be a secret.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or not url.isascii() or not url.isprintable() or set(url) & set(' \\"<>'):
        raise ValueError("this is not a URL. Write https://host/path")
    if parts.username is not None or "@" in parts.netloc:
        raise ValueError(f"a URL must not hold a password. Give a token as {WEBHOOK_TOKEN}")
    if parts.fragment:
        raise ValueError("a URL to send to has no fragment. Remove what follows the #")
    return url


def parse_mailbox(name: str, text: str) -> Address:
    """Parse an e-mail address, such as `archive@example.org` or `The archive <archive@example.org>`.

    Raises:
        ValueError: It is not exactly one address, or could inject lines into a message.

    Source: RFC 5322, section 3.4.
    """
    found = _ADDRESS.fullmatch(text) if text.isprintable() else None
    if found is None:
        raise ValueError(f"{name}: {text!r} is not an e-mail address")
    display, address = found["display"] or "", found["bracketed"] or found["bare"]
    user, _, domain = address.partition("@")
    return Address(display.strip().removeprefix('"').removesuffix('"'), user, domain)


# The parser of `email` is not used, because it guesses, and crashes on some texts. The domain is optional, because a
# local mail server also accepts `root`.
_BARE = r"[^\s@<>,;:()\[\]\"\\]+(?:@\w[\w.-]*)?"
_ADDRESS = re.compile(rf'(?P<display>[^<>\\"]+|"[^<>\\"]*"\s*)?<(?P<bracketed>{_BARE})>|(?P<bare>{_BARE})')
