"""The program's start: `craftkit-archive`, and `python -m craftkit_archive`."""

import gc
import sys

GC_THRESHOLD = 20_000


def main() -> None:
    """Run the command line, if the module `cli` is still the one that was installed with this package.

    Other packages may install top-level modules named `cli` and `server` too, and pip overwrites one with the other
    without a warning, so the program checks before it starts. `doctor` compares every installed file.
    """
    # Most of what a command makes at its start stays until its end. With the default threshold of 700 objects, the
    # garbage collector looked through it 60 to 80 times, which took 15 ms.
    gc.set_threshold(GC_THRESHOLD)
    import cli

    if getattr(cli, "PROGRAM", None) != "craftkit-archive":
        sys.exit(
            f"craftkit-archive: {cli.__file__} belongs to another package. Install craftkit-archive into a virtual "
            "environment of its own."
        )
    try:
        cli.main()
    finally:
        # The interpreter looks through everything once more at its end, for 14 ms, unless it is frozen.
        gc.freeze()


if __name__ == "__main__":
    main()
