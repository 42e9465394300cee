"""Records of files that did not change since the last scan, looked up without libcst."""

from __future__ import annotations

from pathlib import Path

from dropaudit.static.record import FileRecord, Options


class Cache:
    """Records by path and content. Nothing in it is trusted: what cannot be read is a miss."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.warning = ""

    @staticmethod
    def default_directory(root: Path | None = None) -> Path:
        """`.dropaudit_cache` in the project root."""
        return (root or Path.cwd()) / ".dropaudit_cache"

    def get(self, path: str, data: bytes, options: Options) -> FileRecord | None:
        """The record of a file with these bytes, if it was stored under the same settings."""
        return None

    def put(self, path: str, data: bytes, options: Options, record: FileRecord) -> None:
        """Remember a record; `save` writes it."""

    def save(self) -> None:
        """Write what is new. A directory that cannot be written is said in `warning`."""
