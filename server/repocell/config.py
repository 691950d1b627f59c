"""Settings: one file, the environment and the command line become one frozen object.

Lives here: the only reader of os.environ, and the places things are kept. Every problem is reported at once with its
place. It may not know what the settings are used for.
"""

import getpass
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from .errors import InvalidSettings
from .models import Frozen, GiB, Limits

SANDBOX_UID = 60999  # between the ranges systemd and Debian hand out (systemd UIDS-GIDS, Debian policy 9.2.2)
_PREFIX = "REPOCELL_"


class Settings(Frozen):
    """What the operator chose. Paths are absolute; `toolchains` are directories shown read-only in every cell.

    `plan`: how workspaces get their files; auto takes overlays where a trial on the state directory works, else copies.
    """

    state_dir: Path
    repo: str | None = None
    runtime: str = "bubblewrap"
    sandbox_uid: int = Field(default=SANDBOX_UID, gt=0)
    toolchains: tuple[Path, ...] = ()
    plan: Literal["auto", "overlay", "copy"] = "auto"
    toolsets: tuple[str, ...] | None = None
    limits: Limits = Limits()
    layer_cache: int = Field(default=20 * GiB, ge=0)
    idle_seconds: float = Field(default=900.0, gt=0)
    user: str = "unknown"
    git_environment: dict[str, str] = Field(default_factory=dict)

    @field_validator("toolchains")
    @classmethod
    def _narrow(cls, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in paths:
            if not path.is_absolute() or len(path.parts) < 3 or path in (Path.home(), Path.home().parent):
                raise ValueError(f"{path} is too broad or not absolute; name one toolchain, like /home/me/.pyenv")
        return paths


# How git on the host finds certificates and its ssh command is the operator's to say; every other GIT_ variable (GIT_DIR of
# a surrounding hook, GIT_CONFIG_COUNT, ...) would change what it does.
_GIT_KEEPS = ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_NO_VERIFY", "GIT_SSH")


def default_state_dir(environment: Mapping[str, str]) -> Path:
    """Root keeps state where the cells' own uid can reach it; everybody else in their XDG state home."""
    if os.geteuid() == 0:
        return Path("/var/lib/repocell")
    home = environment.get("XDG_STATE_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".local" / "state"
    return Path(home) / "repocell"


def settings_file(environment: Mapping[str, str]) -> Path:
    if named := environment.get("REPOCELL_CONFIG"):
        return Path(named)
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".config"
    return Path(home) / "repocell" / "config.toml"


def load_settings(chosen: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """The command line (`chosen`, Nones left out) over the environment over the file over the defaults.

    Raises InvalidSettings naming every problem with its place.
    """
    environment = os.environ if environment is None else environment
    file = settings_file(environment)
    values: dict[str, Any] = {"state_dir": default_state_dir(environment), "user": _user()}
    values["git_environment"] = {key: environment[key] for key in _GIT_KEEPS if key in environment}
    if file.exists():
        try:
            values |= tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSettings([f"{file}: {error}"]) from error
    elif "REPOCELL_CONFIG" in environment:
        raise InvalidSettings([f"REPOCELL_CONFIG: there is no {file}"])
    for name in ("state_dir", "repo", "runtime", "sandbox_uid", "idle_seconds", "layer_cache"):
        if (text := environment.get(_PREFIX + name.upper())) is not None:
            values[name] = text
    if paths := environment.get(_PREFIX + "TOOLCHAINS"):
        values["toolchains"] = paths.split(":")
    values |= {key: value for key, value in chosen.items() if value is not None}
    try:
        settings = Settings.model_validate(values, strict=False)
    except ValidationError as error:
        raise InvalidSettings([f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]) from error
    return settings.model_copy(update={"state_dir": settings.state_dir.expanduser().absolute()})


def isolate_git() -> None:
    """Takes git's own variables out of this process's environment; called once, before anything else runs."""
    for name in [
        name for name in os.environ if name.startswith("GIT_") and name not in (*_GIT_KEEPS, "GIT_PYTHON_REFRESH")
    ]:
        del os.environ[name]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
