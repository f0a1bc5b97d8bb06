"""Start the ranks that the options ask for."""

from __future__ import annotations

from collections.abc import Sequence

from rlhfcli.launch import hosts, local
from rlhfcli.launch.options import Options, check_hostfile, plan, usable_gpus


def start(options: Options, arguments: Sequence[str]) -> bool:
    """Run a command on ranks if the options ask for more than one, and wait for its end.

    Args:
        options: The launch options.
        arguments: Arguments of the command line; every rank gets the same.

    Returns:
        Whether the command has run; if not, this process has to run it.

    Raises:
        LaunchError: The ranks cannot be started like this.
        RlhfError: The error of the rank that failed first.
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
