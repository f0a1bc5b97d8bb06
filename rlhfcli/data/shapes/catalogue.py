"""Data sets of the Hugging Face Hub that are known by name, and how their columns are read.

To add one, add an entry to ``ENTRIES``. DeepSpeed-Chat's come first, then others in use today.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhfcli.data.dialogues.columns import helpsteer_turns, without_citations, without_end_token
from rlhfcli.data.dialogues.turns import USER_ASSISTANT_SPEAKERS
from rlhfcli.data.shapes.arena import ArenaConversations, ArenaTexts
from rlhfcli.data.shapes.label_readers import Compared, Labelled
from rlhfcli.data.shapes.preference_readers import Paired, Ranked
from rlhfcli.data.shapes.prompts import ALPACA, Prompt
from rlhfcli.data.shapes.readers import Answered, Either, Messages, Only, Reader
from rlhfcli.data.shapes.row_joins import Join, MessageTrees, SamePrompt


@dataclass(frozen=True)
class Entry:
    """One data set.

    Args:
        name: The name on the Hub; if two entries read the same data set, the second has a name of its own.
        reader: The reader of its rows.
        about: A description in a few words.
        language: The language of its texts; ``multi`` for several.
        split: The split to train on.
        held_out: The split that its authors hold out, if there is one.
        hub: The name on the Hub, if ``name`` is another.
        subset: The configuration on the Hub.
        folder: The folder of its files in the repository, if it has no configuration.
        join: Joins rows before they are read.
        aliases: Other names.
    """

    name: str
    reader: Reader
    about: str
    language: str = "en"
    split: str = "train"
    held_out: str | None = None
    hub: str | None = None
    subset: str | None = None
    folder: str | None = None
    join: Join | None = None
    aliases: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The name on the Hub."""
        return self.hub or self.name

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that its rows have."""
        return self.reader.needs if self.join is None else self.join.needs


# Layouts that other data sets are written in, too: formats knows them as shapes.
WEBGPT = Ranked(
    Prompt("question.full_text", speakers=None),
    ("answer_0", "answer_1"),
    ("score_0", "score_1"),
    clean=without_citations,
)
SHP = Labelled(
    Prompt("history", speakers=None),
    ("human_ref_A", "human_ref_B"),
    "labels",
    (1, 0),
    ratio="score_ratio",
    kind="domain",
)
HELPSTEER2 = Compared(Prompt("prompt", clean=helpsteer_turns), ("response_1", "response_2"), "preference_strength")
HELPSTEER3 = Compared(Prompt("context"), ("response1", "response2"), "overall_preference", "domain")
SAFE_RLHF = Labelled(Prompt("prompt", speakers=None), ("response_0", "response_1"), "better_response_id", (0, 1))
ULTRAFEEDBACK = Ranked(
    Prompt("instruction", speakers=None), "completions.*.response", "completions.*.overall_score", kind="source"
)
DOLLY = Answered(Prompt("instruction", below=("context", "input"), speakers=None), "response")

JUDGEBENCH = Labelled(
    Prompt("question", speakers=None), ("response_A", "response_B"), "label", ("A>B", "B>A"), kind="source"
)
RMB_PAIRS = Paired(Prompt("conversation_input"), "chosen.answer", "reject.answer", "category_path")
RMB_BEST_OF_N = Paired(Prompt("conversation_input"), "bon_best.answer", "loser_list.*.answer", "category_path")
COMPLETIONS = Ranked(Prompt("context"), "completions.*.completion", ranks="completions.*.rank")
OPENAI_PAIRS = Paired(Prompt("input.messages"), "preferred_output", "non_preferred_output")
OASST = Either(Ranked(Prompt("prompt"), "answers", ranks="ranks", kind="lang"), Messages("messages"))

_PAIRS = Paired(Prompt("prompt"))
_DIALOGUES = Paired()
_ALPACA = Answered(ALPACA, "output")
_PLAIN_QUESTION = Prompt("question", speakers=None)


def _mkqa(language: str) -> Answered:
    return Answered(Prompt(f"queries.{language}", speakers=None), f"answers.{language}.0.text")


def _miracl() -> Paired:
    return Paired(Prompt("query", speakers=None), "positive_passages.0.text", "negative_passages.0.text")


ENTRIES: tuple[Entry, ...] = (
    # --- DeepSpeed-Chat's ---
    Entry("Dahoas/rm-static", _PAIRS, "Anthropic's helpful and harmless dialogues, split into prompt and answers",
          held_out="test"),
    Entry("Dahoas/full-hh-rlhf", _PAIRS, "all of Anthropic's helpful and harmless dialogues", held_out="test"),
    Entry("Dahoas/synthetic-instruct-gptj-pairwise", _PAIRS, "instructions answered by models of different size"),
    Entry("yitingxie/rlhf-reward-datasets", _PAIRS, "a mixture of preference data", held_out="test"),
    Entry("openai/webgpt_comparisons", WEBGPT, "long answers to questions, with the people's preference as a score"),
    Entry("stanfordnlp/SHP", SHP, "Reddit questions, and which of two comments had more votes",
          held_out="validation"),
    Entry("pvduy/sharegpt_alpaca_oa_vicuna_format",
          Answered(Prompt("prompt", speakers=USER_ASSISTANT_SPEAKERS, clean=without_end_token), "label",
                   without_end_token),
          "dialogues of ShareGPT, Alpaca and OpenAssistant", held_out="test"),
    Entry("wangrui6/Zhihu-KOL", Answered(Prompt("INSTRUCTION", speakers=None), "RESPONSE"),
          "questions and answers of Zhihu", "zh"),
    Entry("Cohere/miracl-zh-queries-22-12", _miracl(), "search queries with a passage that answers, and one that does "
          "not", "zh", held_out="dev"),
    Entry("Cohere/miracl-ja-queries-22-12", _miracl(), "the same in Japanese", "ja", held_out="dev"),
    Entry("Hello-SimpleAI/HC3-Chinese", Answered(_PLAIN_QUESTION, "human_answers.0"), "questions answered by people",
          "zh", subset="all"),
    Entry("mkqa-Chinese", _mkqa("zh_cn"), "short answers to questions of people", "zh", hub="apple/mkqa"),
    Entry("mkqa-Japanese", _mkqa("ja"), "the same in Japanese", "ja", hub="apple/mkqa"),
    Entry("lmqg/qg_jaquad", Answered(_PLAIN_QUESTION, "sentence"), "questions, and the sentence that answers", "ja",
          held_out="validation"),
    Entry("lmqg/qag_jaquad", Answered(Prompt("questions.0", speakers=None), "paragraph"),
          "questions, and the paragraph that answers", "ja", held_out="validation"),
    # --- preferences ---
    Entry("Anthropic/hh-rlhf", _DIALOGUES, "helpful and harmless dialogues, two of each", held_out="test"),
    Entry("HuggingFaceH4/ultrafeedback_binarized", _PAIRS, "UltraFeedback: the best answer and one of the others",
          split="train_prefs", held_out="test_prefs"),
    Entry("openbmb/UltraFeedback", ULTRAFEEDBACK, "four answers to each prompt, with scores of GPT-4"),
    Entry("nvidia/HelpSteer2", Only("split", "train", HELPSTEER2), "two answers, and how strongly people prefer one",
          folder="preference", aliases=("nvidia/HelpSteer2-Preference",)),
    Entry("nvidia/HelpSteer2-scores",
          Ranked(Prompt("prompt", clean=helpsteer_turns), "rows.*.response", "rows.*.helpfulness"),
          "the same answers with scores for helpfulness", held_out="validation", hub="nvidia/HelpSteer2",
          join=SamePrompt("prompt", "response", ("helpfulness",))),
    Entry("nvidia/HelpSteer3", HELPSTEER3, "two answers in many languages, and how strongly people prefer one",
          "multi", held_out="validation", subset="preference"),
    Entry("Skywork/Skywork-Reward-Preference-80K-v0.2", Paired(kind="source"), "a small, strong mixture of pairs"),
    Entry("Skywork/Skywork-Reward-Preference-80K-v0.1", Paired(kind="source"), "the same with prompts of RewardBench"),
    Entry("allenai/llama-3.1-tulu-3-8b-preference-mixture", Paired(Prompt("prompt"), kind="source"),
          "the pairs of Tulu 3"),
    Entry("PKU-Alignment/PKU-SafeRLHF", SAFE_RLHF, "two answers to questions about harm, and which is more helpful",
          held_out="test"),
    Entry("OpenAssistant/oasst1", OASST, "conversations of volunteers, with ranked replies", "multi",
          held_out="validation", join=MessageTrees()),
    Entry("OpenAssistant/oasst2", OASST, "the same, and what came later", "multi", held_out="validation",
          join=MessageTrees()),
    # --- to measure with ---
    Entry("lmarena-ai/arena-human-preference-55k", ArenaTexts(), "votes of visitors between the answers of two models",
          "multi"),
    Entry("lmarena-ai/arena-human-preference-100k", ArenaConversations(), "the same, and what came later", "multi"),
    Entry("lmarena-ai/arena-human-preference-140k", ArenaConversations(), "the same, and what came later", "multi"),
    Entry("lmsys/chatbot_arena_conversations", ArenaConversations(), "the first votes of the arena", "multi"),
    Entry("allenai/reward-bench", Paired(Prompt("prompt"), kind="subset"), "RewardBench", split="filtered"),
    Entry("allenai/reward-bench-2", Paired(Prompt("prompt"), kind="subset"), "RewardBench 2: one or more right "
          "answers and several wrong ones", split="test"),
    Entry("THU-KEG/RM-Bench", Paired(Prompt("prompt"), kind="domain"), "RM-Bench: right and wrong answers in three "
          "styles each"),
    Entry("ScalerLab/JudgeBench", JUDGEBENCH, "JudgeBench: a right and a wrong answer to hard questions", split="gpt"),
    # --- dialogues ---
    Entry("allenai/tulu-3-sft-mixture", Messages("messages"), "the dialogues of Tulu 3", "multi"),
    Entry("HuggingFaceH4/no_robots", Messages("messages"), "instructions and answers written by people",
          held_out="test"),
    Entry("databricks/databricks-dolly-15k", DOLLY, "instructions and answers written by employees"),
    Entry("tatsu-lab/alpaca", _ALPACA, "instructions answered by text-davinci-003"),
    Entry("yahma/alpaca-cleaned", _ALPACA, "the same without many mistakes"),
)  # fmt: skip


def find_entry(name: str) -> Entry | None:
    """Return the entry of a data set; ``None`` if the catalogue has none.

    Args:
        name: The name or an alias; upper case does not count.
    """
    return _BY_NAME.get(name.casefold())


def entries_of(path: str) -> list[Entry]:
    """Return all entries of a data set: the one of that name first, then others that read the same data set.

    Args:
        path: The name of the data set on the Hub, or that of an entry.
    """
    own = find_entry(path)
    others = [entry for entry in ENTRIES if entry.path.casefold() == path.casefold() and entry is not own]
    return others if own is None else [own, *others]


_BY_NAME = {name.casefold(): entry for entry in ENTRIES for name in (entry.name, *entry.aliases)}
