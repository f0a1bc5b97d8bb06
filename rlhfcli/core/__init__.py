"""What the project is about: models, LoRA, losses, the training loop. Knows nothing of terminals or commands."""
