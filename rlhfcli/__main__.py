"""``python -m rlhfcli``: the same as ``rlhf``, and what the launcher starts on every rank."""

from rlhfcli.cli import main

if __name__ == "__main__":
    main()
