"""Processes of their own that begin at once: forks of one that has imported everything, and computed nothing.

To import takes longer than what the tests do in such processes, and what has computed cannot be forked.
"""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fastnas.cli.search", "fastnas.data.loader_data", "sklearn.datasets", "tests.forks"])


def serve():
    """Starts the one that is forked, unless it is there, so that it imports this checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "kernels")]))
        forkserver.ensure_running()


class Fork:
    """A call of ``function``, whose result is the exit status, with more ``variables`` in the environment."""

    def __init__(self, function, *arguments, folder, **variables):
        self.printed = [folder / name for name in ("stdout", "stderr")]
        # As many threads as here, for PyTorch rounds in another order with more
        given = function, arguments, self.printed, variables, torch.get_num_threads()
        serve()
        self.process = FORKS.Process(target=_called, args=given)
        self.process.start()

    def ended(self):
        """The exit status, and what was printed to the two streams."""
        self.process.join(timeout=240)
        return self.process.exitcode, *(path.read_text() for path in self.printed)


def _called(function, arguments, printed, variables, threads):
    for descriptor, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(variables)
    torch.set_num_threads(threads)
    sys.exit(function(*arguments))
