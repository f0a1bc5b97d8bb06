"""Starts what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from rlhfcli.launch import hosts, local
from rlhfcli.launch.options import Options, check_hostfile, plan, usable_gpus


def start(options: Options, arguments: Sequence[str]) -> bool:
    """Run a command on ranks, where the options ask for more than one, and wait for its end.

    Args:
        options: What the user asked for.
        arguments: Those of the command line; every rank gets the same.

    Returns:
        Whether it has run; if not, this process is to run it.

    Raises:
        LaunchError: The ranks cannot be started like this.
        RlhfError: What went wrong in the rank that failed first.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the ranks have ended.
    """
    if not options.given:
        return False
    if options.hostfile is not None:
        check_hostfile(options)
        hosts.run(options.hostfile, None if options.gpus in (None, "all") else options.gpus, arguments)
        return True
    wanted = plan(options, usable_gpus())
    if wanted is None:
        return False
    local.run(wanted, arguments)
    return True
