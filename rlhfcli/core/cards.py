"""The README.md that lies in every model folder: what it is, how it was trained, how to load it."""

from __future__ import annotations

from rlhfcli.core.loop import Result
from rlhfcli.recipe.schema import Phase, Recipe


def sft_card(recipe: Recipe, result: Result) -> str:
    """Model card of a fine-tuned language model."""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [rlhf, sft]
---
# {recipe.model.name}, fine-tuned to hold a dialogue

{_training(recipe, recipe.sft, result)}
Loss on the validation part: {result.evaluation["eval_loss"]:.4f} nats per token
({"the assistant's turns" if recipe.sft.loss_on == "assistant" else "all tokens"}).

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
dialogue = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0]))
```
"""


def reward_card(recipe: Recipe, result: Result) -> str:
    """Model card of a reward model."""
    pooling = recipe.reward.pooling
    warning = (
        "\nTrained with mean pooling: `rlhf` reads the mean over the answer, other programs the last token's score.\n"
        if pooling == "mean"
        else ""
    )
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [rlhf, reward-model]
---
# Reward model on {recipe.model.name}

{_training(recipe, recipe.reward, result)}
Ranking accuracy on the validation part: {result.evaluation["eval_accuracy"]:.3f} (a tie counts as half).
Only differences between answers to the same prompt mean something; `mean` and `std` in config.json are those of the
rewards of the validation answers. Pooling: {pooling}.
{warning}
```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)
dialogue = [{{"role": "user", "content": "Hello!"}}, {{"role": "assistant", "content": "Hello! How can I help you?"}}]
inputs = tokenizer.apply_chat_template(dialogue, return_tensors="pt", return_dict=True)
print(model(**inputs).logits.item())
```
"""


def _training(recipe: Recipe, phase: Phase, result: Result) -> str:
    how = (
        f"LoRA of rank {phase.lora.rank} (merged here; the adapter is in adapter/)"
        if phase.lora
        else "full fine-tuning"
    )
    sources = ", ".join(source.path for source in recipe.data.sources)
    return (
        f"Trained by rlhf with {how}: {result.steps:,} steps of {phase.batch_size}, {result.tokens:,} tokens, learning "
        f"rate {phase.learning_rate:g} ({phase.schedule.name}), seed {recipe.seed}. Data: {sources}.\n"
    )
