"""A way to start processes that never import the program they are started from.

The standard library's `spawn` runs the caller's main module once more in each process. A script without an
`if __name__ == "__main__":` would then do all of its work again in every worker. Our workers run functions of this
package alone, so they need nothing of the main module.
"""

from multiprocessing import popen_spawn_posix, spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess, current_process
from types import FunctionType, SimpleNamespace
from typing import Any


def _without_main(name: str) -> dict[str, Any]:
    """Return what a new process has to know of this one, except which main module to import."""
    data = spawn.get_preparation_data(name)
    return {word: value for word, value in data.items() if not word.startswith("init_main_from_")}


class _Popen(popen_spawn_posix.Popen):
    # The standard library has no option for this, and to replace its function would change the processes that the
    # caller starts too. So this is the same function, in a namespace of its own.
    _launch = FunctionType(
        popen_spawn_posix.Popen._launch.__code__,  # type: ignore[attr-defined]
        {
            **vars(popen_spawn_posix),
            "spawn": SimpleNamespace(**{**vars(spawn), "get_preparation_data": _without_main}),
        },
    )


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_spawn_posix.Popen:
        return _Popen(process_obj)

    def start(self) -> None:
        """Start, in a daemonic process too, such as a worker of Dask: ours end by themselves when their parent dies."""
        config = current_process()._config  # type: ignore[attr-defined]
        daemon = config.pop("daemon", None)
        try:
            super().start()
        finally:
            if daemon is not None:
                config["daemon"] = daemon

    def terminate(self) -> None:
        """Kill the process: ours ignore SIGTERM, and an executor that lost one of them would wait for the others."""
        self.kill()


class Context(SpawnContext):
    """A `multiprocessing` context whose processes start fresh, as with `spawn`, and import no main module."""

    Process = _Process


CONTEXT = Context()
