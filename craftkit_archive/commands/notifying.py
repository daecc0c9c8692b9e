"""Commands for notifications: notify test."""

from __future__ import annotations

import click

from craftkit_archive.commands.console import Console


@click.group()
def notify() -> None:
    """Notify others of how a night ended, as the table [notify] of the configuration says.

    By a dead man's switch, a webhook, a program, e-mail, and the services that Apprise supports: see docs/notify.md.
    """


@notify.command("test")
@click.pass_obj
def try_notifications(console: Console) -> int:
    """Send a test to everybody named in [notify], whatever its `when` says, and report whether it arrived.

    A dead man's switch takes it for a good night. Exits with 16 if somebody could not be reached.
    """
    import socket

    from craftkit_archive.configuration import Configuration
    from craftkit_archive.errors import RequestError
    from craftkit_archive.notify.message import write_trial
    from craftkit_archive.notify.send import outlets_of, try_outlets
    from craftkit_archive.values import format_time, utc_now

    configuration = console.configuration or Configuration()
    if not outlets_of(configuration.notify):
        where = configuration.file or console.archive / "craftkit-archive.toml"
        raise RequestError(
            f"Nobody is named to notify. Fill in the table [notify] of {where};"
            " `craftkit-archive --config NEW.toml config init` writes an example."
        )
    notice = write_trial(str(console.archive.absolute()), socket.gethostname(), format_time(utc_now()))
    return console.finish(try_outlets(configuration.notify, notice))
