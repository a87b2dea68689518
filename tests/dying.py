"""The command line in one of several processes, of which rank 1 is killed once, in the middle of an epoch."""

import os
import signal
import sys

from fastnas.cli.main import main
from fastnas.engine import loop

KILL_AT = 5


def deadly(step):
    def stepped(run, *batches):
        if run.state.step == KILL_AT and run.ranks.index == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        step(run, *batches)

    return stepped


if __name__ == "__main__":
    loop.search_step = deadly(loop.search_step)
    sys.exit(main())
