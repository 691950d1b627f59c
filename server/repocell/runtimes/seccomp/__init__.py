"""The compiled seccomp programs, one per machine, and the plan they were compiled from.

Lives here: finding the program for a machine. It may not know how programs are compiled (scripts/build-seccomp does),
nor who installs them; at run time it needs neither pyseccomp nor libseccomp.
"""

import platform
from importlib.resources import files

from .plan import ABSENT, DENIED, DENIED_BY_NUMBER, MACHINES

__all__ = ["ABSENT", "DENIED", "DENIED_BY_NUMBER", "MACHINES", "UnsupportedMachine", "program"]


class UnsupportedMachine(LookupError):
    """No program was compiled for this kind of processor."""

    def __init__(self, machine: str, known: tuple[str, ...]) -> None:
        super().__init__(f"There is no seccomp program for {machine!r} machines, only for {' and '.join(known)}.")
        self.machine = machine
        self.known = known


def program(machine: str | None = None) -> bytes:
    """The BPF program for `machine` (this one when None), as `bwrap --seccomp` reads it."""
    machine = platform.machine() if machine is None else machine
    # Asked of the list and not of the directory, so that a name can never be a path.
    if machine not in MACHINES:
        raise UnsupportedMachine(machine, MACHINES)
    return files(__name__).joinpath(f"{machine}.bpf").read_bytes()
