"""E-mail: sends the notice as plain text through an SMTP server.

Source: RFC 5322 (messages), RFC 2047 (names beyond ASCII), RFC 3834 (automatic messages), RFC 8314 (TLS).
"""

import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, make_msgid

from craftkit_archive.notify.message import Notice
from craftkit_archive.notify.outlets import Outlet, UndeliveredError
from craftkit_archive.notify.settings import SMTP_PASSWORD, Smtp, parse_mailbox
from craftkit_archive.overriding import override
from craftkit_archive.secrets import read_secret
from craftkit_archive.values import Clock, utc_now

# Each step may take this part of the time-out, so that a slow one leaves time to report it.
STEPS = 2


class Mail(Outlet):
    """An SMTP server that takes the notice as a message."""

    name = "mail"

    def __init__(self, settings: Smtp, *, clock: Clock = utc_now) -> None:
        self._settings = settings
        self._clock = clock
        self._connection: smtplib.SMTP | None = None

    @override
    def deliver(self, notice: Notice, budget_s: float) -> str:
        """Send one message to all recipients."""
        settings = self._settings
        server = f"{settings.host}:{settings.effective_port}"
        password = read_secret(SMTP_PASSWORD) if settings.user else None
        if settings.user and password is None:
            raise UndeliveredError(f"{server} needs the password of {settings.user}. Set {SMTP_PASSWORD}.")
        message = write_message(settings, notice, self._clock)
        try:
            with self._connect(budget_s / STEPS) as connection:
                if settings.user and password is not None:
                    connection.login(settings.user, password)
                refused = connection.send_message(message)
                # The server has the message, so its answer to QUIT does not matter.
                with suppress(smtplib.SMTPException, OSError):
                    connection.quit()
        except smtplib.SMTPServerDisconnected as error:
            raise UndeliveredError(f"{server} broke off. Check the server and its port.") from error
        except smtplib.SMTPException as error:
            raise UndeliveredError(f"{server} {_refusal(error)}") from error
        except ssl.SSLError as error:
            raise UndeliveredError(f"{server} {_distrust(error)}") from error
        except TimeoutError as error:
            raise UndeliveredError(f"{server} did not answer in time. Check the server and its port.") from error
        except UnicodeError as error:  # the login method cannot encode this user or password
            raise UndeliveredError(f"{server} cannot be given this user and password: they are not ASCII.") from error
        except (OSError, ValueError) as error:
            said = (getattr(error, "strerror", None) or "no connection").lower()
            raise UndeliveredError(f"{server} cannot be reached ({said}). Check its name and port.") from error
        if refused:
            raise UndeliveredError(f"{server} refused {', '.join(sorted(refused))}, and took it for the others.")
        return f"{server}, for {', '.join(settings.to)}"

    @override
    def abort(self) -> None:
        """Break the connection, which also ends the reading of an endless answer."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _connect(self, timeout_s: float) -> Iterator[smtplib.SMTP]:
        settings, context = self._settings, ssl.create_default_context()
        name = _own_name()
        if settings.security == "tls":
            connection: smtplib.SMTP = smtplib.SMTP_SSL(local_hostname=name, timeout=timeout_s, context=context)
        else:
            connection = smtplib.SMTP(local_hostname=name, timeout=timeout_s)
        # smtplib compares the certificate with this name, but sets it only if it connects in its constructor. Here it
        # connects later, so that `abort` has a connection to break.
        connection._host = settings.host  # type: ignore[attr-defined]
        self._connection = connection
        try:
            code, _ = connection.connect(settings.host, settings.effective_port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, "")
            if settings.security == "starttls":
                connection.starttls(context=context)
            yield connection
        finally:
            connection.close()


def write_message(settings: Smtp, notice: Notice, clock: Clock) -> EmailMessage:
    """Return the notice as a plain-text message that every server accepts."""
    sender, to = parse_mailbox("sender", settings.sender), [parse_mailbox("to", one) for one in settings.to]
    beyond = not all(one.addr_spec.isascii() for one in (sender, *to))
    message = EmailMessage(policy=SMTPUTF8 if beyond else SMTP)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = notice.subject()
    message["Date"] = format_datetime(clock())
    message["Message-ID"] = make_msgid(
        domain=sender.domain if sender.domain.isascii() and sender.domain else "localhost"
    )
    message["Auto-Submitted"] = "auto-generated"
    # Quoted-printable keeps lines below 998 bytes and all bytes within ASCII.
    message.set_content(notice.as_text(), cte="quoted-printable")
    return message


def _own_name() -> str:
    """Return this machine's name in the form that SMTP requires, without a DNS query, for which smtplib would wait."""
    name = socket.gethostname()
    return name if "." in name and name.isascii() else "[127.0.0.1]"


def _refusal(error: smtplib.SMTPException) -> str:
    """Return what a server refused in our words: its own might repeat what it was sent."""
    match error:
        case smtplib.SMTPAuthenticationError():
            return f"refuses the user or the password ({error.smtp_code}). Check them."
        case smtplib.SMTPSenderRefused():
            return f"refuses the sender ({error.smtp_code}). Check it, and whether the server wants a user."
        case smtplib.SMTPRecipientsRefused():
            codes = ", ".join(f"{one} ({code})" for one, (code, _) in sorted(error.recipients.items()))
            return f"refuses {codes}. Check the addresses, and whether the server wants a user."
        case smtplib.SMTPResponseException():
            return f"refuses the message ({error.smtp_code}). Look into the server's log."
        case smtplib.SMTPNotSupportedError():
            return "lacks what is asked of it: TLS, logging in, or such addresses. Check `security`, `user` and `to`."
        case _:
            return "does not speak SMTP. Check its name and port."


def _distrust(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "has no certificate that is trusted. Set SSL_CERT_FILE to that of its authority."
    return "does not speak TLS there. Check its port, and `security`."
