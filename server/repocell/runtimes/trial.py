"""The trial a runtime runs in a fresh sandbox to learn what is really isolated there.

Lives here: the program (standard library only, run inside) and the reading of what it printed, untrusted like all
output. It may not know how the sandbox was made; any runtime can use it.
"""

import json
import os
from typing import Any, cast

# Prints one JSON object of observations. Each is a fact seen from inside, none an inference.
TRIAL_PROGRAM = r"""
import ctypes, json, os
def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
def can_write(path):
    try:
        with open(path, "w"):
            return True
    except OSError:
        return False
def replaced(path):
    try:
        os.unlink(path + "/below")
        os.rmdir(path)
        os.mkdir(path)
        return os.listdir(path) == []
    except OSError:
        return False
libc = ctypes.CDLL(None, use_errno=True)
s = status()
with open("/proc/net/dev") as file:
    devices = [line.split(":")[0].strip() for line in file if ":" in line]
print(json.dumps({
    "uid": os.getuid(), "pid": os.getpid(), "capabilities": s["CapEff"] + s["CapPrm"] + s["CapBnd"],
    "no_new_privs": s["NoNewPrivs"], "seccomp": s["Seccomp"], "devices": devices,
    "processes": [p for p in os.listdir("/proc") if p.isdigit()],
    "namespaces": {n: os.readlink("/proc/self/ns/" + n) for n in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")},
    "top": sorted(os.listdir("/")), "homes": sorted(os.listdir("/home")),
    "writes": {p: can_write(p) for p in ("/usr/x", "/etc/x", "/x", "/dev/x", "/workspace/x", "/home/agent/x", "/tmp/x")},
    "replaced": replaced("/workspace/given"),
    "nested": libc.unshare(0x10000000) == 0, "terminal": os.path.exists("/dev/tty") and can_write("/dev/tty"),
}), flush=True)
"""

_TOP = {
    "bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "opt", "proc", "run", "sbin", "tmp", "usr", "var",
    "workspace", "mirror",
}  # fmt: skip


def read_trial(said: str) -> dict[str, bool]:
    """Each promise and whether the trial saw it kept; a trial that cannot be read keeps none."""
    try:
        facts = cast("dict[str, Any]", json.loads(said))
        writes = facts["writes"]
        outside = {name: os.readlink(f"/proc/self/ns/{name}") for name in facts["namespaces"]}
        return {
            "user namespace": facts["namespaces"]["user"] != outside["user"] and facts["uid"] != 0,
            "mount namespace": facts["namespaces"]["mnt"] != outside["mnt"],
            "process namespace": facts["pid"] == 1 and facts["processes"] == ["1"],
            "network namespace": facts["namespaces"]["net"] != outside["net"] and facts["devices"] == ["lo"],
            "ipc namespace": facts["namespaces"]["ipc"] != outside["ipc"],
            "hostname namespace": facts["namespaces"]["uts"] != outside["uts"],
            "cgroup namespace": facts["namespaces"]["cgroup"] != outside["cgroup"],
            "no capabilities": set(facts["capabilities"]) == {"0"},
            "no new privileges": facts["no_new_privs"] == "1",
            "seccomp filter": facts["seccomp"] == "2",
            "no nested user namespaces": facts["nested"] is False,
            "no terminal of the host": facts["terminal"] is False,
            "host files hidden": set(facts["top"]) <= _TOP and facts["homes"] == ["agent"],
            "system read-only": not any(writes[path] for path in ("/usr/x", "/etc/x", "/x", "/dev/x")),
            "deleted files stay deleted": facts["replaced"] is True,
            "workspace writable": all(writes[path] for path in ("/workspace/x", "/home/agent/x", "/tmp/x")),
        }
    except (ValueError, KeyError, TypeError, OSError):
        return {"readable trial": False}
