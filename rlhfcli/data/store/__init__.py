"""The prepared data on disk: Arrow files with examples, and a manifest with checksums and the count of every row.

``writers`` writes the files and ``prepared`` reads them where they lie, without loading them; ``split`` assigns
conversations to splits and phases; ``counts`` and ``statistics`` make the figures of the manifest. May import
``data.encoding`` and ``data.dialogues``.
"""

__all__ = ["counts", "manifest", "prepared", "split", "statistics", "unsealed", "writers"]
