"""A cell's network is its own loopback and nothing else.

Every attack is made outside too, on a listener of the test's own, where it succeeds.
"""

import socket

import pytest

from hostile.observe import listener, listening, outside, python
from hostile.stage import Stage

pytestmark = pytest.mark.anyio

CONNECT = """
import socket, sys
family, where = sys.argv[1], sys.argv[2]
with socket.socket(socket.AF_INET if family == "inet" else socket.AF_UNIX) as sock:
    sock.settimeout(5)
    if family == "inet":
        sock.connect(("127.0.0.1", int(where)))
    else:
        sock.connect("\\0" + where if family == "abstract" else where)
    print("connected")
"""

SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    print("sent", sock.sendto(b"out", (sys.argv[1], int(sys.argv[2]))))
"""

TALK = """
import socket, subprocess, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
    client = f"import socket; print(socket.create_connection(('localhost', {port}), 5).recv(99).decode())"
    other = subprocess.Popen([sys.executable, "-c", client])
    server.accept()[0].sendall(b"heard on loopback")
    sys.exit(other.wait(10))
"""


async def test_there_is_no_device_but_loopback(stage: Stage) -> None:
    """A cell's interfaces are lo, and its routes are none."""
    assert "127.0.0.1" in outside(python("import socket; print(socket.gethostbyname('localhost'))")).stdout
    said = await stage.attack("tail -n +3 /proc/net/dev | cut -d: -f1; tail -n +2 /proc/net/route")
    assert said.split("[")[0].split() == ["lo"]


@pytest.mark.parametrize("family", ["inet", "abstract", "path"])
async def test_a_listener_of_the_host_is_out_of_reach(stage: Stage, family: str) -> None:
    """What listens on the host's loopback, abstract or path sockets accepts from outside and never from a cell."""
    where: str | tuple[str, int] = {
        "inet": ("127.0.0.1", 0), "abstract": f"\0repocell-{stage.folder.name}", "path": str(stage.folder / "listener")
    }[family]  # fmt: skip
    with listener(where) as sock:
        place = sock.getsockname()
        name = str(place[1]) if family == "inet" else str(where).removeprefix("\0")
        assert outside(python(CONNECT, family, name)).stdout == "connected\n"
        sock.accept()[0].close()
        said = await stage.attack(python(CONNECT, family, name))
        assert "connected" not in said
        assert "exit 1" in said
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.accept()
    await stage.healthy()


async def test_the_hosts_loopback_hears_no_datagram(stage: Stage) -> None:
    """A datagram sent in a cell does not arrive at a socket bound to the same address on the host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        port = sock.getsockname()[1]
        assert outside(python(SEND, "127.0.0.1", port)).stdout == "sent 3\n"
        assert sock.recv(9) == b"out"
        await stage.attack(python(SEND, "127.0.0.1", port))
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(9)


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "10.0.0.1", "169.254.169.254", "8.8.8.8", "255.255.255.255", "224.0.0.1"]
)
async def test_no_address_can_be_sent_to(stage: Stage, address: str) -> None:
    """Beyond loopback there is no route: a datagram to documentation, private, metadata or public addresses fails."""
    said = await stage.attack(python(SEND, address, 9))
    assert "sent" not in said
    assert "Network is unreachable" in said or "Permission denied" in said


async def test_names_do_not_resolve(stage: Stage) -> None:
    """No resolver answers in a cell, and asking fails at once instead of waiting for one."""
    said = await stage.attack("getent hosts example.org; echo status $?", timeout_s=10)
    assert said.startswith("status 2\n[exit 0")


async def test_localhost_resolves_and_talks(stage: Stage) -> None:
    """Two processes of a cell reach each other over loopback, by address and by the name localhost."""
    assert (await stage.attack(python(TALK))).startswith("heard on loopback\n[exit 0")


async def test_cells_do_not_share_a_loopback(stage: Stage) -> None:
    """What listens in one cell is not there in the next."""
    port = 47391
    serve = python(
        f"import socket; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True); s.accept()"
    )
    job = await stage.client.call_tool("bash", {"command": serve, "workspace": stage.bystander, "wait_s": 0.5})
    assert not job.is_error
    knock = python(CONNECT, "inet", port)
    assert "connected" not in await stage.attack(knock)
    twin = await stage.client.call_tool("bash", {"command": knock, "workspace": stage.bystander})
    assert "connected" in str(twin.content)


async def test_a_cells_listener_is_not_on_the_host(stage: Stage) -> None:
    """A port opened in a cell is not among those the host listens on, where one opened outside is."""
    with listener(("127.0.0.1", 0)) as sock:
        assert sock.getsockname()[1] in listening()
    serve = "import socket, time; s = socket.create_server(('0.0.0.0', 0)); print(s.getsockname()[1], flush=True); time.sleep(9)"
    said = await stage.attack(python(serve), wait_s=0.5)
    assert "still running" in said
    assert int(said.split()[0]) not in listening()
