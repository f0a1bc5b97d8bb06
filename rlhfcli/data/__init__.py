"""From files and data sets to the token ids of dialogues and preferences, without torch.

A row is read (``reading``), converted into a dialogue or a preference (``shapes``, ``dialogues``), written with the
chat template (``templates``), encoded (``encoding``) and stored (``store``). ``sources`` opens what a recipe names, and
``preparation`` runs all of it. From bottom to top: ``dialogues``; ``reading`` and ``templates``; ``shapes`` and
``encoding``; ``sources`` and ``store``; ``preparation``. May import ``runs``, ``recipe``, ``files`` and ``tiny``.
"""
