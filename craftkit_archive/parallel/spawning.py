"""Starts processes that do not import the program that starts them.

The standard library's `spawn` runs the caller's main module again in each process. A script without
`if __name__ == "__main__":` would then repeat all of its work in every worker. Our workers run only functions of this
package, so they do not need the main module.
"""

from multiprocessing import popen_spawn_posix, spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess, current_process
from types import FunctionType, SimpleNamespace
from typing import Any


def _without_main(name: str) -> dict[str, Any]:
    """Return the data that prepares a new process, without the main module to import."""
    data = spawn.get_preparation_data(name)
    return {word: value for word, value in data.items() if not word.startswith("init_main_from_")}


class _Popen(popen_spawn_posix.Popen):
    # The standard library has no option for this, and patching its function would also change processes that the caller
    # starts. So this is the same function with globals of its own.
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
        """Start the process, even from a daemonic one such as a Dask worker: ours end with their parent anyway."""
        config = current_process()._config  # type: ignore[attr-defined]
        daemon = config.pop("daemon", None)
        try:
            super().start()
        finally:
            if daemon is not None:
                config["daemon"] = daemon

    def terminate(self) -> None:
        """Kill the process: ours ignore SIGTERM, so an executor that lost one would wait for the others forever."""
        self.kill()


class Context(SpawnContext):
    """A `multiprocessing` context whose processes start fresh, as with `spawn`, and import no main module."""

    Process = _Process


CONTEXT = Context()
