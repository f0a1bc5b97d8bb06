"""The Python API under the verbs: ``Project`` and what its methods take and return.

    project.py        the class that users see; each method opens a workspace and calls one of the files below
    options.py        options of trainings and exports, and who calls
    results.py        what the methods return
    workspace.py      an opened run: lock, tokenizer, prepared data
    training.py       one phase, or the whole run
    measuring.py      evaluation of both models
    exporting.py      folders for other programs
    capacity.py       speed and memory of a training
    conversation.py   chats with the models of a run

May import every package but ``cli``. Knows no terminal: progress goes to a ``Sink`` that is handed in. Importing it
loads neither torch nor pydantic.
"""

__all__ = ["exporting", "options", "project"]
