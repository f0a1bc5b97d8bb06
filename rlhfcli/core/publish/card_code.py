"""The section of a model card that shows how to load the model: Python code that the tests run."""

from __future__ import annotations

from typing import Literal

from rlhfcli.core.publish import markdown

Form = Literal["merged", "adapter", "deepspeed-chat"]
_CODE = {
    "sft": """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
{load}
dialogue = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100{stops})[0]))""",
    "reward": """from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder)
{load}
dialogue = [{{"role": "user", "content": "Hello!"}}, {{"role": "assistant", "content": "Hello! How can I help you?"}}]
inputs = tokenizer.apply_chat_template(dialogue, return_tensors="pt", return_dict=True)
print(model(**inputs).logits.item())""",
}
_CLASSES = {"sft": "AutoModelForCausalLM", "reward": "AutoModelForSequenceClassification"}
_DEEPSPEED_CHAT = (
    "DeepSpeed-Chat's phase 3 reads it: `--critic_model_name_or_path` with this folder. Nothing else does; "
    "`rlhf export FOLDER TO` makes a plain transformers model of it."
)


def loading_section(phase: str, form: Form, base: str) -> str:
    """Write the text of the section.

    Args:
        phase: ``sft`` or ``reward``.
        form: The format of the folder that the card describes.
        base: Hub name or folder of the model that an adapter belongs to.

    Returns:
        Markdown.
    """
    if form == "deepspeed-chat":
        return _DEEPSPEED_CHAT
    if form == "adapter":
        return markdown.block(_adapter_code(phase, base), "python")
    load = f"model = {_CLASSES[phase]}.from_pretrained(folder)"
    return markdown.block(_CODE[phase].format(load=load, stops=""), "python")


def _adapter_code(phase: str, base: str) -> str:
    options = ", num_labels=1" if phase == "reward" else ""
    load = (
        f"base = {_CLASSES[phase]}.from_pretrained({base!r}{options})\n"
        "model = PeftModel.from_pretrained(base, folder).eval()"
    )
    stops = ""
    if phase == "sft":  # the base model's own settings lack the end token that the adapter has learned
        load += "\nsettings = GenerationConfig.from_pretrained(folder)"
        stops = ", generation_config=settings"
    code = f"from peft import PeftModel\n{_CODE[phase].format(load=load, stops=stops)}"
    return code.replace("AutoTokenizer\n", "AutoTokenizer, GenerationConfig\n", 1) if phase == "sft" else code
