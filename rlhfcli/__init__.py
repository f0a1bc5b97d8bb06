"""rlhf: supervised fine-tuning and reward models, from a laptop to a cluster.

From Python: ``Project`` does what the verbs of the command line do, ``ChatSession`` holds a conversation, and
``RewardModel`` scores dialogues. They are imported when they are first used, so that ``import rlhfcli`` is quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhfcli.api.project import Project
    from rlhfcli.chat.reward_model import RewardModel
    from rlhfcli.chat.session import ChatSession

__version__ = "0.1.0"
__all__ = ["ChatSession", "Project", "RewardModel", "__version__"]

_MODULES = {
    "ChatSession": "rlhfcli.chat.session",
    "Project": "rlhfcli.api.project",
    "RewardModel": "rlhfcli.chat.reward_model",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from rlhfcli import launch

    launch.in_this_process()  # torch reads these settings while it is imported
    globals()[name] = found = getattr(importlib.import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
