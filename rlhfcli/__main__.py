"""``python -m rlhfcli``: the same as ``rlhf``, and what the launcher starts on every rank."""

import os
import signal

if "RLHF_LAUNCHER" in os.environ:  # a rank: Ctrl-C ends it without a word until it can do so in good order
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))

from rlhfcli.cli import main

if __name__ == "__main__":
    main()
