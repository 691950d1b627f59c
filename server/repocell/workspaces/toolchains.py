"""Toolchains that live outside /usr: where people keep them, and what a cell needs to use them.

Lives here: the places version managers use, and the variables and search path that make their programs work read-only. It
may not decide what is shown in a cell; the operator does, and `doctor` proposes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

# Directory below the home, the variable that tells its programs where it is, and where its programs are.
_KNOWN: Mapping[str, tuple[str | None, Sequence[str]]] = {
    ".pyenv": ("PYENV_ROOT", ("shims", "bin")),
    ".nvm": ("NVM_DIR", ("versions/node/*/bin",)),
    ".rustup": ("RUSTUP_HOME", ("toolchains/*/bin",)),
    ".sdkman": ("SDKMAN_DIR", ("candidates/*/current/bin",)),
    ".asdf": ("ASDF_DATA_DIR", ("shims", "bin")),
    ".local/share/mise": ("MISE_DATA_DIR", ("shims",)),
    ".local/share/uv/python": (None, ("*/bin",)),
    ".volta": ("VOLTA_HOME", ("bin",)),
    ".goenv": ("GOENV_ROOT", ("shims", "bin")),
    ".rbenv": ("RBENV_ROOT", ("shims", "bin")),
}


def find(home: Path) -> Sequence[Path]:
    """Toolchains below a home directory that a cell would not see by itself."""
    return [home / name for name in _KNOWN if (home / name).is_dir()]


def environment(toolchains: Sequence[Path]) -> Mapping[str, str]:
    """The variables the toolchains' programs need; PATH has where they are, the newest version of each first."""
    variables: dict[str, str] = {}
    places: list[str] = []
    for path in toolchains:
        variable, patterns = next((known for name, known in _KNOWN.items() if path.match(name)), (None, ("bin",)))
        if variable is not None:
            variables[variable] = str(path)
        for pattern in patterns:
            places += [str(place) for place in sorted(path.glob(pattern), reverse=True) if place.is_dir()]
    return {**variables, "PATH": ":".join(places)}
