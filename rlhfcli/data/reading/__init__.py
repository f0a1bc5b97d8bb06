"""Bytes become rows with their places: JSON, CSV, Parquet and Arrow; single files and folders.

May import ``data.dialogues``.
"""

__all__ = ["file_names", "files", "folders", "json_rows", "rows"]
