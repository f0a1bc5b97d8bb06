"""C++ extensions of DeepSpeed on this machine. None is built unless the recipe has ``deepspeed.nvme``.

Loads neither torch nor DeepSpeed, so that ``rlhf doctor`` can check before anything is built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from rlhfcli.errors import UserError

FILES = "async_io"  # DeepSpeed's extension that reads and writes tensors in files
INSTALL = "apt-get install libaio-dev g++ ninja-build"
_STALE_AFTER = 600.0  # seconds; no extension builds for ten minutes
_LOADS_IN = 20.0  # seconds; loading one that is built takes less
_PROBE = "#include <libaio.h>\nint main() { return io_submit(0, 0, 0); }\n"


def stale_locks(now: float | None = None) -> list[Path]:
    """Find locks that killed builds have left in torch's extension cache.

    Args:
        now: Seconds since the epoch; the present time if left out.

    Returns:
        Lock files that are older than any build lasts.
    """
    now = time.time() if now is None else now
    found = [*_cache().glob("*/lock"), *_cache().glob("*/*/lock")]
    return sorted(lock for lock in found if now - lock.stat().st_mtime > _STALE_AFTER)


def compiler() -> str | None:
    """Return the name of the C++ compiler that torch would use; ``None`` if there is none."""
    names = (os.environ.get("CXX", "c++"), "g++", "clang++")
    return next((name for name in names if shutil.which(name)), None)


def missing_for_files() -> str | None:
    """Return what ``deepspeed.nvme`` needs and this machine lacks.

    Returns:
        Its name; ``None`` if the extension is built or can be built.
    """
    if built(FILES):
        return None
    name = compiler()
    if name is None:
        return "a C++ compiler"
    if shutil.which("ninja") is None:
        return "ninja"
    command = [name, "-x", "c++", "-", "-o", os.devnull, "-laio"]
    done = subprocess.run(command, input=_PROBE, capture_output=True, text=True, timeout=60)
    return "libaio with its headers" if done.returncode else None


def built(name: str) -> bool:
    """Return whether an extension is in torch's cache.

    Args:
        name: Name of the extension.
    """
    return any(True for pattern in (f"{name}/{name}.so", f"*/{name}/{name}.so") for _ in _cache().glob(pattern))


def prepare_files() -> str | None:
    """Check that ``deepspeed.nvme`` can work, before DeepSpeed tries and perhaps waits for ever.

    Returns:
        A note for the user if something has to be built; else ``None``.

    Raises:
        UserError: Something is missing, or a killed build has left a lock.
    """
    lacks = missing_for_files()
    if lacks:
        raise UserError(f"deepspeed.nvme needs {lacks}", hint=f"{INSTALL}; without nvme, memory is used.")
    _free(FILES)
    locks = [lock for lock in stale_locks() if lock.parent.name in (FILES, "pin_memory")]
    if locks:
        raise UserError(
            "deepspeed.nvme would wait for a build that was killed",
            where=str(locks[0]),
            hint=f"If nothing is building: rm {' '.join(map(str, locks))}",
        )
    return None if built(FILES) else f"DeepSpeed builds {FILES} for deepspeed.nvme, once: some minutes"


def _free(name: str) -> None:
    """Remove the lock of a process that was killed while it loaded an extension that is built.

    A build would have written files since then; loading writes nothing and ends soon.
    """
    for lock in [*_cache().glob(f"{name}/lock"), *_cache().glob(f"*/{name}/lock")]:
        while (lock.parent / f"{name}.so").is_file():
            try:
                since = lock.stat().st_mtime
            except FileNotFoundError:
                break
            if any(file != lock and file.stat().st_mtime > since for file in lock.parent.iterdir()):
                break
            if time.time() - since > _LOADS_IN:
                lock.unlink(missing_ok=True)
            else:
                time.sleep(0.1)


def _cache() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch_extensions"
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR", default))
