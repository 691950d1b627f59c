"""What a cell sees: the plan of its file system as bubblewrap operations.

Lives here: a pure function from facts about the host to an ordered list of operations, and the files written for the
cell. It may not start anything. Order matters to bubblewrap: later operations cover earlier ones.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models import HOME_DIR, WORKSPACE_DIR, OverlayTree, PlainTree, SandboxSpec

CELL_UID = 1000
HOSTNAME = "cell"

# Where distributions keep what programs in /usr point to or read at start. Nothing here names this host or its users.
ETC_FROM_HOST = (
    "alternatives", "ca-certificates.conf", "crypto-policies", "debian_version", "fonts", "inputrc", "java-11-openjdk",
    "java-17-openjdk", "java-21-openjdk", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "maven",
    "mime.types", "os-release", "perl", "pki/ca-trust", "pki/tls/certs", "protocols", "python3", "python3.9", "python3.10",
    "python3.11", "python3.12", "python3.13", "python3.14", "services", "ssl/certs", "ssl/openssl.cnf", "terminfo",
    "timezone",
)  # fmt: skip

ETC_WRITTEN = {
    "passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:{CELL_UID}:{CELL_UID}:agent:{HOME_DIR}:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": f"root:x:0:\nagent:x:{CELL_UID}:\nnogroup:x:65534:\n",
    "hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n",
    "hostname": f"{HOSTNAME}\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nnetworks: files\nprotocols: files\n"
    "services: files\n",
    "resolv.conf": "",
    # Everything in a cell belongs to the agent, the mirror below it excepted, which it can only read.
    "gitconfig": "[user]\n\tname = repocell agent\n\temail = agent@localhost\n[safe]\n\tdirectory = *\n"
    "[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n",
}


# inotify's watchers and watches are counted by user: one cell could leave none to the other cells, or to the editor of the
# person who runs the server. A user namespace may have limits of its own for all below it (namespaces(7)): half of what
# there is. Where /proc/sys is read-only, as in a container, and without an overlay there is no such limit.
WATCHING = {"max_user_instances": "max_inotify_instances", "max_user_watches": "max_inotify_watches"}


@dataclass(frozen=True)
class HostLayout:
    """The host's top-level directories besides /usr: a link into it, or a directory of its own; and what it shares out.

    `shares`: for names in /proc/sys/user, how many a cell may have.
    """

    links: tuple[tuple[str, str], ...]
    directories: tuple[str, ...]
    etc: tuple[str, ...]
    shares: tuple[tuple[str, int], ...]

    @classmethod
    def look(cls) -> "HostLayout":
        names = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
        return cls(
            links=tuple((name, os.readlink(name)) for name in names if Path(name).is_symlink()),
            directories=tuple(name for name in names if Path(name).is_dir() and not Path(name).is_symlink()),
            etc=tuple(name for name in ETC_FROM_HOST if Path("/etc", name).exists()),
            shares=tuple(
                (share, int(path.read_text(encoding="ascii")) // 2)
                for whole, share in WATCHING.items()
                if (path := Path("/proc/sys/fs/inotify", whole)).exists()
            ),
        )


# $1 the layers' folder, $2 the mount options, $3 where the overlay appears; the rest is the sandbox to start there.
_MOUNT = 'cd "$1" && mount -n -i -t overlay -o "$2" overlay "$3" && shift 3 && exec "$@"'


def around(executable: str, tree: PlainTree | OverlayTree, host: HostLayout) -> list[str]:
    """What stands before the sandbox's own command: for an overlay, an outer user namespace that mounts it.

    `userxattr` is what lets an unprivileged mount keep deletions and renamed directories (kernel 5.11, overlayfs.rst).
    Names are relative, because the kernel takes one page of options. The old mount call is forced: fsconfig(2) takes 256
    bytes a value, less than a long stack of layers needs.
    """
    if isinstance(tree, PlainTree):
        return []
    options = f"lowerdir={':'.join(tree.lowers)},upperdir={tree.upper},workdir={tree.work},userxattr"
    outer = [executable, "--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL", "--die-with-parent"]
    outer += ["--setenv", "LIBMOUNT_FORCE_MOUNT2", "always", "--dev-bind", "/", "/", "--"]
    shares = "".join(f" echo {number} > /proc/sys/user/{name};" for name, number in host.shares)
    script = f"{{{shares} :; }} 2> /dev/null; {_MOUNT}"
    return [*outer, "/bin/sh", "-c", script, "overlay", tree.folder, options, tree.mount]


def operations(spec: SandboxSpec, host: HostLayout, written: Sequence[tuple[str, int]]) -> list[str]:
    """The bubblewrap arguments that build the cell's file system; `written` pairs a name in /etc with a descriptor."""
    args = ["--ro-bind", "/usr", "/usr"]
    for name, target in host.links:
        args += ["--symlink", target, name]
    for name in host.directories:
        args += ["--ro-bind", name, name]
    args += ["--dir", "/etc", "--dir", "/run", "--dir", "/var", "--symlink", "../tmp", "/var/tmp"]
    for name in host.etc:
        args += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    for name, descriptor in written:
        args += ["--perms", "0444", "--file", str(descriptor), f"/etc/{name}"]
    # Every tmpfs is memory: each gets a size, and what needs no writing is made read-only at the end.
    args += ["--proc", "/proc", "--dev", "/dev", "--size", str(spec.limits.temporary), "--tmpfs", "/dev/shm"]
    args += ["--perms", "1777", "--size", str(spec.limits.temporary), "--tmpfs", "/tmp"]
    args += ["--dir", "/home"]
    args += ["--bind", spec.tree.workspace, WORKSPACE_DIR, "--bind", spec.tree.home, HOME_DIR]
    for bind in spec.binds:
        args += ["--ro-bind", bind.source, bind.target]
    args += ["--remount-ro", "/dev", "--remount-ro", "/"]
    return args
