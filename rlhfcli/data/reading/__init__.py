"""Read data files row by row, each row with its place, and choose the files of a folder.

``files`` reads a single file of any format with the reader of that format beside it; ``folders`` and ``file_names``
choose files by configuration and split. May import ``data.dialogues``.
"""

__all__ = ["file_names", "files", "folders", "json_rows", "rows"]
