"""rlhf: supervised fine-tuning and reward models, from a laptop to a cluster."""

__version__ = "0.1.0"
