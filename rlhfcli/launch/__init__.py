"""How a phase is started: in this process; on several ranks of this machine; on several machines.

    options.py       the launch options, checked against this machine → a plan
    dispatch.py      starts the plan
    local.py         ranks of this machine, one node of several included: torch's elastic launch API
    hosts.py         the machines of a hostfile: DeepSpeed's launcher
    rank_files.py    the folder in which ranks and their parent exchange files
    rank.py          inside a rank: end with the parent, report failures, keep a log
    failure.py       which rank failed first, and why
    environment.py   variables that are set before torch is imported; those of other launchers

A rank is the same command once more, with other environment variables. For one rank nothing is started. The environment
has to be set before torch and DeepSpeed are imported, so no file here imports either at the top.
"""

from __future__ import annotations

from rlhfcli.launch.dispatch import start
from rlhfcli.launch.environment import check_launcher, in_this_process, usable_cores
from rlhfcli.launch.options import Options, imagined, usable_gpus
from rlhfcli.launch.rank import as_rank, continue_alone, first, is_rank, log_into, of_first, together, wait_for_first

__all__ = [
    "Options",
    "as_rank",
    "check_launcher",
    "continue_alone",
    "first",
    "imagined",
    "in_this_process",
    "is_rank",
    "log_into",
    "of_first",
    "start",
    "together",
    "usable_cores",
    "usable_gpus",
    "wait_for_first",
]
