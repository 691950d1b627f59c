"""Makes the repository that the demo works on: a published project, its bug, and the test that shows the bug.

The project is `parse` 1.17.0 from the Python package index. Its `Parser("{:d}")` remembers the base of the first
number it reads, so that a later number in another base comes out wrong. The test is the one its maintainers shipped
with the repair in 1.18.0. Commits have a fixed author and date: their ids are the same on every machine.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PUBLISHED = ("1.17.0", "c7806139a481ec8c8336a54418894c8b201314f8ecc63e55f438f4b72bdc4485")
REPAIRED = ("1.18.0", "91666032d6723dc5905248417ef0dc9e4c51df9526aaeef271eacad6491f06a4")

TEST_FILE = "test_parse.py"
TEST_CLASS = "TestParseType"
TEST_NAME = "test_int_convert_stateless_base"
TEST_ID = f"test_parse.{TEST_CLASS}.{TEST_NAME}"

# What an agent would change in parse.py. The first is there exactly once.
FIX_FILE = "parse.py"
OLD = """\
        # If base wasn't specified, detect it automatically
        if self.base is None:

            # Assume decimal number, unless different base is detected
            self.base = 10

            # For number formats starting with 0b, 0o, 0x, use corresponding base ...
            if string[number_start] == '0' and len(string) - number_start > 2:
                if string[number_start + 1] in 'bB':
                    self.base = 2
                elif string[number_start + 1] in 'oO':
                    self.base = 8
                elif string[number_start + 1] in 'xX':
                    self.base = 16

        chars = int_convert.CHARS[: self.base]
        string = re.sub('[^%s]' % chars, '', string.lower())
        return sign * int(string, self.base)
"""
NEW = "        base = self.base\n" + OLD.replace("self.base", "base")

GIT_ENVIRONMENT = {
    # Nothing else of the caller's environment: neither its git settings nor a GIT_DIR of a hook may change the result.
    "PATH": os.environ.get("PATH", os.defpath),
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Sample",
    "GIT_AUTHOR_EMAIL": "sample@example.invalid",
    "GIT_AUTHOR_DATE": "2020-08-29T00:00:00Z",
    "GIT_COMMITTER_NAME": "Sample",
    "GIT_COMMITTER_EMAIL": "sample@example.invalid",
    "GIT_COMMITTER_DATE": "2020-08-29T00:00:00Z",
}


class SampleError(Exception):
    """The sample could not be made; the message says what to do."""


@dataclass(frozen=True)
class Sample:
    path: Path
    commits: tuple[str, str]  # as published; with the failing test
    failing_test: str
    test_command: str  # runs that test alone, with the cell's own Python
    suite_command: str
    file: str
    old: str  # replacing this in `file` ...
    new: str  # ... by this is the repair


def make_sample(cache: Path, target: Path) -> Sample:
    """Make the repository at `target`, which must be missing or empty; downloads are kept in `cache`."""
    if target.exists() and any(target.iterdir()):
        raise SampleError(f"{target} is not empty; name a new folder")
    published = _fetch(cache, *PUBLISHED)
    repaired = _fetch(cache, *REPAIRED)

    _unpack(published, target)
    _git(target, "init", "--quiet", "--template=", "--object-format=sha1", "--initial-branch=main")
    first = _commit(target, "parse 1.17.0 as published")

    test_file = target / TEST_FILE
    test_file.write_bytes(_add_test(test_file.read_bytes(), _read(repaired, TEST_FILE)))
    second = _commit(target, "Add the failing test from the bug report")

    return Sample(
        path=target,
        commits=(first, second),
        failing_test=TEST_ID,
        test_command=f"python3 -m unittest {TEST_ID}",
        suite_command="python3 -m unittest test_parse",
        file=FIX_FILE,
        old=OLD,
        new=NEW,
    )


def _fetch(cache: Path, version: str, sha256: str) -> Path:
    """The source distribution's path in the cache, downloaded when it is missing or not what we pinned."""
    name = f"parse-{version}.tar.gz"
    archive = cache / name
    if archive.is_file() and _digest(archive) == sha256:
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        # To download a source distribution pip runs its set-up code; --require-hashes has it look at the digest first.
        requirement = Path(folder) / "requirement.txt"
        requirement.write_text(f"parse=={version} --hash=sha256:{sha256}\n")
        options = "--quiet --no-input --retries 2 --no-deps --no-binary parse --require-hashes"
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options.split(), "-r", str(requirement), "-d", folder],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        downloaded = Path(folder) / name
        if done.returncode != 0 or not downloaded.is_file() or _digest(downloaded) != sha256:
            said = done.stderr.strip() or "nothing"
            raise SampleError(
                f"parse {version}, which the demo works on, could not be downloaded with pip. Connect to the network "
                f"and try again; once in {cache}, no network is needed. pip said:\n{said}"
            )
        downloaded.replace(archive)
    return archive


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _unpack(archive: Path, target: Path) -> None:
    # By hand, since Debian 12's tarfile has no extraction filters: regular files only, none outside the target.
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])  # less the folder named after the version
            source = tar.extractfile(member) if member.isfile() else None
            if source is None:
                continue
            if ".." in inside.parts:
                raise SampleError(f"{archive.name} has a file outside its own folder: {member.name}")
            file = target / inside
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.read())
            file.chmod(0o755 if member.mode & 0o100 else 0o644)


def _read(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        source = tar.extractfile(f"{archive.name.removesuffix('.tar.gz')}/{name}")
        if source is None:
            raise SampleError(f"{archive.name} has no {name}")
        return source.read()


def _add_test(published: bytes, repaired: bytes) -> bytes:
    """The published test file with the one new test method, at its place: the end of the last class."""
    head = f"    def {TEST_NAME}(self):\n".encode()
    body = repaired.split(head)[1].split(b"\n\n")[0]
    end = b"\n\nif __name__ == "
    before, after = published.split(end)
    return before + b"\n" + head + body + b"\n" + end + after


def _commit(repository: Path, message: str) -> str:
    _git(repository, "add", "--all", "--force")
    _git(repository, "commit", "--quiet", f"--message={message}")
    return _git(repository, "rev-parse", "HEAD")


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=repository, env=GIT_ENVIRONMENT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SampleError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()
