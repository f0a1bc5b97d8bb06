"""The options of a command line that say where it runs."""

from __future__ import annotations

import pytest

from rlhfcli.cli.shared.commands import launch_options

WHERE = [
    ("sft --recipe my.yaml --set seed=1", ""),
    ("sft --ranks 2 --set seed=1 --offline", " --ranks 2 --offline"),
    ("sft --gpus=all --resume", " --gpus=all"),
    ("run --nnodes 2 --node-rank 0 --main-address a:29500", " --nnodes 2 --node-rank 0 --main-address a:29500"),
    ("sft --max-time 3h --hostfile hosts", " --hostfile hosts"),
    ("sft --ranks", " --ranks"),
]


@pytest.mark.parametrize(("line", "expected"), WHERE)
def test_a_training_is_resumed_where_it_ran(line: str, expected: str) -> None:
    assert launch_options(line.split()) == expected
