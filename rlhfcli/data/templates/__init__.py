"""Apply chat templates: write turns as text and tokenise it, with the place of every answer known.

``template`` holds the built-in templates and renders any, ``words`` learns what a template writes around each turn,
``segments`` splits a dialogue into given text and answers, ``tokens`` tokenises these pieces. May import
``data.dialogues``.
"""

__all__ = ["scored_template", "segments", "template", "tokens"]
