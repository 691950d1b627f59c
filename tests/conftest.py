"""Fixtures shared by all suites: real repositories, real servers as child processes, real sandboxes.

Nothing here replaces a part of repocell. Folders are made where a cell's own uid can reach them, also when the tests run as
root and pytest's own temporary folders are closed to it.
"""

import functools
import http.server
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import hypothesis
import pytest
from mcp import Client

import repocell
from harness import ERAS, SANDBOX_UID, Connect, OpenCell, cell_spec, connect_to_server, make_repo
from repocell.guest.link import Link, open_link
from repocell.models import Limits, ReadOnlyBind
from repocell.runtimes.bubblewrap import Bubblewrap, Identity


def pytest_configure(config: pytest.Config) -> None:
    """With REPOCELL_EXPECT_WHEEL the installed wheel is what is tested, and nothing else.

    Examples are not timed, since machines are shared; in CI they are the same each time, so that a change is to blame for red.
    """
    hypothesis.settings.register_profile("repocell", deadline=None, derandomize=os.environ.get("CI") == "true")
    hypothesis.settings.load_profile("repocell")
    if os.environ.get("REPOCELL_EXPECT_WHEEL") and "site-packages" not in (repocell.__file__ or ""):
        raise pytest.UsageError(f"the wheel was to be tested, but repocell comes from {repocell.__file__}")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder() -> Generator[Path]:
    """An empty directory that a cell's uid can walk through."""
    path = Path(tempfile.mkdtemp(prefix="repocell-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def repo(folder: Path) -> Path:
    """A small project: a module with a bug, its unittest, a note."""
    return make_repo(
        folder / "project",
        {
            "calc.py": "def add(a, b):\n    return a - b\n\n\ndef double(x):\n    return 2 * x\n",
            "tests/test_calc.py": "import unittest\nfrom calc import add\n\n\nclass AddTest(unittest.TestCase):\n"
            "    def test_add(self):\n        self.assertEqual(add(2, 3), 5)\n",
            "README.md": "# calc\n\nAdds numbers.\n",
        },
    )


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    """The protocol era the client speaks."""
    return str(request.param)


@pytest.fixture
def connect(folder: Path, repo: Path) -> Connect:
    """Starts the real server as a host does, as a child over stdio, and connects the SDK's own client to it."""

    def start(
        era: str = "legacy", *options: str, environment: dict[str, str] | None = None, default_repo: bool = True
    ) -> AbstractAsyncContextManager[Client]:
        chosen = [*(["--repo", str(repo)] if default_repo else []), *options]
        return connect_to_server(folder, chosen, era, environment)

    return start


@pytest.fixture
def runtime() -> Bubblewrap:
    return Bubblewrap(Identity.for_server(SANDBOX_UID))


@pytest.fixture
def open_cell(runtime: Bubblewrap, folder: Path) -> OpenCell:
    """Opens a bare sandbox with the guest in it; its writable directories are folder/workspace and folder/home."""

    @asynccontextmanager
    async def start(limits: Limits | None = None, binds: tuple[ReadOnlyBind, ...] = ()) -> AsyncGenerator[Link]:
        spec = cell_spec(runtime, folder, limits or Limits(), binds)
        async with runtime.open(spec) as stream, open_link(stream, spec.limits, spec.environment) as link:
            yield link

    return start


@pytest.fixture
def https_site(folder: Path) -> Generator[str]:
    """A static https server on loopback over folder/site; its certificate is folder/certificate.pem."""
    (folder / "site").mkdir()
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate), "-days",
         "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()
        thread.join()
