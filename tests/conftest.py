"""What all tests share: a quiet transformers, no network, and a Ctrl-C that reaches the commands they start."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells do for background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)
