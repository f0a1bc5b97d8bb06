"""What the project is about: models, LoRA, losses, the training loop. Knows nothing of terminals or commands.

The rooms, from bottom to top; each may import those below it:

1. ``token_trees``, ``parallel``, ``model_files``: many sequences as one row of tokens; ranks; folders
2. ``families``: what differs between model families
3. ``packing``: examples become batches, in the fastest layout that a model computes exactly
4. ``models``, ``tasks``: language model, reward model, LoRA; what a batch of each phase is, and its loss
5. ``generation``, ``engine``: drawing answers; the DeepSpeed engine that drives a model
6. ``checkpoints``, ``publish``: saving to resume; saving for others
7. ``training``: the loop, and the two phases from start to end
8. ``capacity``: how much memory and time a training takes

``losses``, ``hardware``, ``movable`` (tensors that go to a device together) and ``result`` (the outcome of a training)
lie below all of them.
"""

__all__ = ["hardware", "losses", "movable", "result"]
