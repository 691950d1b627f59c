"""From the words of a kernel, or of bubblewrap, to a cause and a remedy a person can act on.

Lives here: reading the host's switches that forbid user namespaces, and what a root lacks; and the table of symptoms
(sources: bubblewrap 0.8 to 0.12 messages, kernel.org's sysctl documentation, Ubuntu's 23.10 release notes). It may not
start a sandbox.
"""

import shutil
import stat
from pathlib import Path

from ..models import Problem

GUEST_PYTHON = "/usr/bin/python3"
_TO_BECOME = {0: "no CAP_CHOWN", 6: "no CAP_SETGID", 7: "no CAP_SETUID"}  # linux/capability.h


def preflight(executable: str) -> Problem | None:
    """What is wrong before anything is tried, or None."""
    found = shutil.which(executable)
    if found is None:
        return Problem(
            cause="bubblewrap (bwrap) is not installed",
            remedy="Install it: 'sudo apt install bubblewrap' (Debian, Ubuntu), 'sudo dnf install bubblewrap' (Fedora).",
        )
    if Path(found).stat().st_mode & stat.S_ISUID:
        return Problem(
            cause=f"{found} is set-uid root, which adds privileges this runtime must not have (CVE-2026-41163)",
            remedy=f"Remove the bit: 'sudo chmod u-s {found}'.",
        )
    if not Path(GUEST_PYTHON).exists():
        return Problem(
            cause=f"there is no {GUEST_PYTHON}, which the program inside a cell runs on",
            remedy="Install the system's Python 3.9 or newer: 'sudo apt install python3'.",
        )
    return None


def cannot_become(uid: int, gid: int, process: Path = Path("/proc/self")) -> Problem | None:
    """What keeps a server that is root from giving files and processes to the cells' user, or None.

    A root may be one of a user namespace only, which has no other users, or none whose groups it may change
    (user_namespaces(7)), or one without the capabilities that make a root.
    """
    maps = {name: _read(f"{process}/{name}") for name in ("uid_map", "gid_map")}
    if not _has(maps["uid_map"], uid) or not _has(maps["gid_map"], gid):
        return Problem(
            cause=f"the server is root of a user namespace that has no user {uid}, under which its cells would run, as "
            "inside another sandbox",
            remedy="Run repocell outside the other sandbox, or set sandbox_uid in the settings to a user it has.",
        )
    status = dict(line.split(":\t", 1) for line in _read(f"{process}/status").splitlines() if ":\t" in line)
    held = int(status.get("CapEff", "-1"), 16)  # where /proc does not tell, the trial will
    missing = [name for bit, name in _TO_BECOME.items() if not held >> bit & 1]
    if not missing and _read(f"{process}/setgroups") != "deny":
        return None
    return Problem(
        cause=f"the server is root, but may not change to the cells' user {uid} ({', '.join(missing) or 'setgroups is denied'})",
        remedy="Run repocell as an ordinary user, or give it what is missing, as with 'docker run --cap-add'.",
    )


def _has(mapped: str, number: int) -> bool:
    """Whether a map of a user namespace (first inside, first outside, count) has this number; unreadable ones have all."""
    rows = [[int(field) for field in line.split()] for line in mapped.splitlines()]
    return not rows or any(first <= number < first + count for first, _, count in rows)


def diagnose(said: str) -> Problem:
    """The cause and remedy behind a sandbox that did not come up; `said` is what bubblewrap printed."""
    lowered = said.lower()
    if any(
        text in lowered for text in ("uid map", "new namespace", "user namespace", "unshare", "rtm_newaddr", "clone")
    ):
        return _namespaces_forbidden(said)
    if "disable-userns" in lowered or "unknown option" in lowered:
        return Problem(
            cause="this bubblewrap is older than 0.8", remedy="Upgrade it: Debian 12 and Ubuntu 24.04 have it."
        )
    if "can't mount proc" in lowered:
        return Problem(
            cause="a fresh /proc cannot be mounted, as in a container whose own /proc is masked",
            remedy="Run the container with '--security-opt systempaths=unconfined', or run repocell outside it.",
        )
    if "permission denied" in lowered or "can't find source path" in lowered:
        return Problem(
            cause="a directory the cell needs cannot be reached by the cell's user",
            remedy="Put the state directory (--state-dir) and toolchains where that user may go, not below a private home.",
        )
    first = said.strip().splitlines()[0] if said.strip() else "bubblewrap ended without a word"
    return Problem(cause=first, remedy="Run 'bwrap --unshare-all --ro-bind / / true' by hand to see it fail.")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespaces_forbidden(said: str) -> Problem:
    cause = "this kernel does not let ordinary users make user namespaces"
    if _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return Problem(cause=cause, remedy="Run 'sudo sysctl -w kernel.unprivileged_userns_clone=1'.")
    if _read("/proc/sys/user/max_user_namespaces") in ("0", "1") or "no space left" in said.lower():
        return Problem(
            cause="user namespaces are limited to none here, as inside another sandbox",
            remedy="Run 'sudo sysctl -w user.max_user_namespaces=15000', or run repocell outside the other sandbox.",
        )
    if _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return Problem(
            cause="AppArmor restricts user namespaces (the default since Ubuntu 23.10)",
            remedy="Install the distribution's profile for bwrap: 'sudo apt install apparmor-profiles && sudo ln -s "
            "/usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && sudo systemctl reload apparmor'.",
        )
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return Problem(
            cause="the container this server runs in forbids user namespaces",
            remedy="Start the container with '--security-opt seccomp=unconfined', or use the docker runtime.",
        )
    return Problem(cause=cause, remedy="Ask the operator of this machine; bubblewrap said: " + said.strip()[:200])
