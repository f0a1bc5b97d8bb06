"""Evaluation of the language model, before and after fine-tuning.

Perplexity is ``exp(sum of nll / number of target tokens)`` over all validation dialogues: weighted by token, so it
does not depend on how they are batched. Answers are greedy. Exact match counts an answer that is, without surrounding
white space, one of the accepted ones; its macro mean gives every skill the same weight. A base model often knows the
answer and misses only the end. Therefore two more figures are reported: whether the first line is that of an accepted
answer, and whether the answer ends with an end token.

The base model reads the same text, template words included, and its answers are cut where it begins to write the
user's next turn: it is judged by its answer, not by whether it knows when to stop.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhfcli.core.families.continuation import slow_reason
from rlhfcli.core.generation.decode import Decoding, context_limit, end_ids_of, generate
from rlhfcli.core.generation.text_stream import Lead, cut, turn_stops
from rlhfcli.core.training.measure import measure_dialogues
from rlhfcli.data.encoding.encode import Encoder
from rlhfcli.data.encoding.encoded import EncodedDialogue
from rlhfcli.data.sources.evaluation_rows import PromptRow
from rlhfcli.errors import DataError
from rlhfcli.progress import Silent, Sink
from rlhfcli.recipe.schema import Recipe

_SLACK = 8  # tokens beyond the longest accepted answer after which an answer is cut: it is wrong by then


@dataclass(frozen=True)
class LanguageData:
    """The data for evaluating language models.

    Args:
        tokenizer: Tokenizer of the tuned model with its template; the base model reads the same tokens.
        dialogues: The validation part, for perplexity.
        prompts: Prompts to answer, some with accepted answers; if empty, the samples come from ``dialogues``.
    """

    tokenizer: PreTrainedTokenizerBase
    dialogues: Sequence[EncodedDialogue]
    prompts: Sequence[PromptRow] = ()


@dataclass(frozen=True)
class _Answer:
    """An answer of a model, and whether the model ended it."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class _Question:
    """A prompt as tokens, with its accepted answers, skill and reference."""

    ids: list[int]
    shown: str
    accepted: tuple[str, ...]
    skill: str
    reference: str
    group: str = ""


def evaluate_language(
    recipe: Recipe,
    base: PreTrainedModel,
    tuned: PreTrainedModel,
    data: LanguageData,
    sink: Sink | None = None,
) -> dict[str, Any]:
    """Evaluate the base model and the tuned model.

    Args:
        recipe: The recipe, of which ``eval``, ``chat``, ``sft`` and ``data.max_length`` are read.
        base: The model that fine-tuning started from.
        tuned: The fine-tuned model.
        data: Dialogues and prompts.
        sink: Receives the progress.

    Returns:
        ``perplexity``, ``token_accuracy``, the same with ``base_`` before it, ``tokens``; ``exact_match`` and
        ``base_exact_match`` (``macro``, ``by_skill``, ``prompts``; null without accepted answers), the same for
        ``first_line_match``; ``stops``, the share of answers that end with an end token; ``samples``; where the prompts
        are of named sets, ``exact_match_by_set`` and ``base_exact_match_by_set``.

    Raises:
        DataError: The validation part has no answer to predict.
    """
    sink = sink or Silent()
    questions = _questions(recipe, data, _limit(recipe, data))
    result: dict[str, Any] = {"loss_on": recipe.sft.loss_on}
    answers: dict[str, list[_Answer]] = {}
    for prefix, name, model in (("base_", "base", base), ("", "tuned", tuned)):
        with sink.stage(f"perplexity of the {name} model"):
            result |= _likelihood(recipe, model, data.dialogues, prefix)
        if slow := slow_reason(model):
            sink.note(slow)
        sink.begin(f"answers of the {name} model", len(questions), "prompts")
        answers[name] = _answers(model, data.tokenizer, questions, _limit(recipe, data), sink)
        sink.end()
        result |= _matches(answers[name], questions, prefix)
    result["samples"] = _samples(questions, answers["base"], answers["tuned"], recipe.eval.samples)
    return result


def _matches(answers: Sequence[_Answer], questions: Sequence[_Question], prefix: str) -> dict[str, Any]:
    """Compute exact match, first line match, and the share of answers that the model ended."""
    accepted, skills = [question.accepted for question in questions], [question.skill for question in questions]
    first_lines = [_first_line(answer.text) for answer in answers]
    accepted_lines = [tuple(map(_first_line, texts)) for texts in accepted]
    return {
        f"{prefix}exact_match": exact_match([answer.text for answer in answers], accepted, skills),
        f"{prefix}first_line_match": exact_match(first_lines, accepted_lines, skills),
        f"{prefix}stops": sum(answer.stopped for answer in answers) / len(answers) if answers else None,
    } | _by_set(answers, questions, prefix)


def _by_set(answers: Sequence[_Answer], questions: Sequence[_Question], prefix: str) -> dict[str, Any]:
    """Compute the exact match of each named set; empty if there is one set."""
    sets: dict[str, Any] = {}
    for name in dict.fromkeys(question.group for question in questions if question.group):
        own = [k for k, question in enumerate(questions) if question.group == name]
        accepted, skills = [questions[k].accepted for k in own], [questions[k].skill for k in own]
        sets[name] = exact_match([answers[k].text for k in own], accepted, skills)
    return {f"{prefix}exact_match_by_set": sets} if sets else {}


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def exact_match(
    answers: Sequence[str], accepted: Sequence[Sequence[str]], skills: Sequence[str]
) -> dict[str, Any] | None:
    """Compute the share of answers that are accepted, by skill and as the mean of the skills.

    Args:
        answers: One answer per prompt.
        accepted: Accepted answers per prompt; a prompt without any is left out.
        skills: The skill that each prompt tests.

    Returns:
        ``macro``, ``by_skill`` and the number of ``prompts``; ``None`` if no prompt has accepted answers.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for answer, good, skill in zip(answers, accepted, skills, strict=True):
        if good:
            right[skill or "all"].append(answer.strip() in {text.strip() for text in good})
    if not right:
        return None
    by_skill = {skill: sum(hits) / len(hits) for skill, hits in sorted(right.items())}
    return {
        "macro": sum(by_skill.values()) / len(by_skill),
        "by_skill": by_skill,
        "prompts": sum(map(len, right.values())),
    }


def spread(labels: Sequence[str], count: int) -> list[int]:
    """Choose indices evenly over labels: the first of each label, then the second of each, and so on.

    Args:
        labels: One label per item.
        count: Largest number of indices.

    Returns:
        Indices, ascending.
    """
    seen: dict[str, int] = defaultdict(int)
    rounds = []
    for i, label in enumerate(labels):
        rounds.append((seen[label], i))
        seen[label] += 1
    return sorted(i for _, i in sorted(rounds)[:count])


def _samples(
    questions: Sequence[_Question], base: Sequence[_Answer], tuned: Sequence[_Answer], count: int
) -> list[dict[str, str | None]]:
    """Select some questions with the answers of both models."""
    return [
        {
            "skill": questions[i].skill or None,
            "prompt": questions[i].shown,
            "reference": questions[i].reference,
            "base": base[i].text,
            "tuned": tuned[i].text,
        }
        for i in spread([question.skill for question in questions], count)
    ]


def _likelihood(
    recipe: Recipe, model: PreTrainedModel, dialogues: Sequence[EncodedDialogue], prefix: str
) -> dict[str, Any]:
    """Compute perplexity and token accuracy, with a prefix before their names."""
    if not any(dialogue.spans for dialogue in dialogues):
        raise DataError("the validation part has no answer to predict", hint="Raise data.validation.")
    sums = measure_dialogues(model, dialogues, recipe.sft.loss_on, recipe.sft.micro_batch_tokens)
    return {
        f"{prefix}perplexity": math.exp(min(sums.nll / sums.tokens, 700.0)),  # e^710 overflows
        f"{prefix}token_accuracy": sums.correct / sums.tokens,
        "tokens": sums.tokens,
    }


def _limit(recipe: Recipe, data: LanguageData) -> int:
    """Return the longest answer in tokens: a little more than the longest accepted one, to save time."""
    accepted = [text for prompt in data.prompts for text in prompt.accepted]
    if not accepted or not all(prompt.accepted for prompt in data.prompts):
        return recipe.chat.max_new_tokens
    if not Lead(data.tokenizer).empty:  # the length of a reasoning section is unknown
        return recipe.chat.max_new_tokens
    longest = max(len(ids) for ids in data.tokenizer(accepted, add_special_tokens=False)["input_ids"])
    return min(recipe.chat.max_new_tokens, longest + _SLACK)


def _questions(recipe: Recipe, data: LanguageData, limit: int) -> list[_Question]:
    """Make the questions: the prompts, or the last turns of some validation dialogues."""
    if not data.prompts:
        with_answer = [dialogue for dialogue in data.dialogues if dialogue.spans]
        count = min(recipe.eval.samples, len(with_answer))
        places = [i * len(with_answer) // count for i in range(count)]
        return [_from_dialogue(with_answer[place], data.tokenizer) for place in places]
    prompts = list(data.prompts)
    if not any(prompt.accepted for prompt in prompts):
        prompts = [prompts[i] for i in spread([p.skill for p in prompts], recipe.eval.samples)]
    longest = recipe.data.max_length
    encoder = Encoder(data.tokenizer, max(longest - limit, longest // 2))
    return [
        _Question(
            ids=encoder.prompt(prompt.turns),
            shown=prompt.turns[-1].content,
            accepted=prompt.accepted,
            skill=prompt.skill,
            reference=prompt.accepted[0] if prompt.accepted else "",
            group=prompt.group,
        )
        for prompt in prompts
    ]


def _from_dialogue(dialogue: EncodedDialogue, tokenizer: PreTrainedTokenizerBase) -> _Question:
    """Make a question of the last turn of a validation dialogue."""
    first, last = dialogue.spans[-1]
    before = dialogue.spans[-2][1] if len(dialogue.spans) > 1 else 0
    return _Question(
        ids=dialogue.ids[:first],
        shown=_text(tokenizer, dialogue.ids[before:first]),
        accepted=(),
        skill="",
        reference=Lead(tokenizer).without(dialogue.ids[first:last]),
    )


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[_Question], limit: int, sink: Sink
) -> list[_Answer]:
    """Generate greedy answers, cut where the model begins to write the user's next turn."""
    context = context_limit(model)
    prompts = [q.ids if context is None else q.ids[-(context - 1) :] for q in questions]
    vocabulary = model.get_input_embeddings().num_embeddings
    pad = min(int(tokenizer.pad_token_id), vocabulary - 1)  # the base model may not have the tuned one's pad
    answers = generate(
        model, prompts, Decoding(limit), end_ids_of(model, tokenizer), pad, lambda done: sink.advance(done, {})
    )
    stops, lead = turn_stops(tokenizer), Lead(tokenizer)
    results = []
    for ids, prompt in zip(answers, prompts, strict=True):
        whole = lead.without(ids)
        text = cut(whole, stops)
        room = limit if context is None else min(limit, context - len(prompt))
        results.append(_Answer(text, stopped=len(ids) < room and text == whole))
    return results
