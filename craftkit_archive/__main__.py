"""The program's start: `craftkit-archive`, and `python -m craftkit_archive`."""

import sys


def main() -> None:
    """Run the command line, if the module `cli` is still the one that was installed with this package.

    Other packages may install top-level modules named `cli` and `server` too, and pip overwrites one with the other
    without a warning, so the program checks before it starts. `doctor` compares every installed file.
    """
    import cli

    if getattr(cli, "PROGRAM", None) != "craftkit-archive":
        sys.exit(
            f"craftkit-archive: {cli.__file__} belongs to another package. Install craftkit-archive into a virtual "
            "environment of its own."
        )
    cli.main()


if __name__ == "__main__":
    main()
