"""One process of a run that tests start by torchrun: trains as its settings say, and kills itself where told to.

    torchrun ... rank.py STEP --dataset_root ...

Process 1 dies by SIGKILL after so many steps (0: never), unless torchrun has started it anew; the other one then needs
a second to leave, in which torchrun asks it to terminate. Leaves with 9 where threads of the process group are left.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from torch import distributed

from latentface.cli import main
from latentface.training import loop

fatal = int(sys.argv[1]) if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" else 0
take_step, taken = loop.take_step, 0


def take_and_die(run, group) -> None:
    global taken
    take_step(run, group)
    taken += 1
    if taken == fatal and run.ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def leave_slowly() -> None:
    time.sleep(1)
    leave()


loop.take_step = take_and_die
leave = distributed.destroy_process_group
if fatal:
    distributed.destroy_process_group = leave_slowly
code = main(["train", *sys.argv[2:]])
threads = [place.read_text().strip() for place in Path("/proc/self/task").glob("*/comm")]  # none but on Linux
sys.exit(9 if any("gloo" in name for name in threads) else code)
