"""Loads a partitioned model on several ranks; each writes its view to ``FOLDER/RANK.json``.

python -m torch.distributed.run --nproc_per_node=2 -m tests.core.partition_worker FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from rlhfcli.core.models.loading import load_causal_lm, parameter_counts
from rlhfcli.core.parallel.own_rank import rank
from rlhfcli.core.parallel.zero3 import gathered, is_partitioned, loading, shape_of
from rlhfcli.recipe.schema import DeepspeedSection


def report(folder: Path) -> dict[str, Any]:
    """What this rank holds of the model in ``FOLDER/model``, and whether its pieces are those of the plain model."""
    plain = load_causal_lm(str(folder / "model"))
    with loading(DeepspeedSection(zero_stage=3), 1.0):
        model = load_causal_lm(str(folder / "model"))
    named = dict(model.named_parameters())
    held = {name: int(p.ds_tensor.numel()) for name, p in named.items()}
    in_place = {name: p.numel() for name, p in named.items()}
    with gathered(named.values()):
        same = all(torch.equal(p, other) for p, other in zip(model.parameters(), plain.parameters(), strict=True))
    return {
        "in_pieces": is_partitioned(model),
        "held": sum(held.values()),
        "in_place": sum(in_place.values()),
        "counts": parameter_counts(model),
        "shapes": all(shape_of(p) == other.shape for p, other in zip(named.values(), plain.parameters(), strict=True)),
        "same": same,
        "afterwards": is_partitioned(load_causal_lm(str(folder / "model"))),
    }


if __name__ == "__main__":
    where = Path(sys.argv[1])
    found = report(where)
    (where / f"{rank()}.json").write_text(json.dumps(found))
