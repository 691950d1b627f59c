"""The laws of layers, each with the runtime and the guest alone: what a stack of directories under a cell keeps and forbids.

The same laws hold for both plans, an overlay and a plain copy, but where an overlay is said to be special.
"""

import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from contract.cells import ran_well
from harness import cell_spec
from repocell.guest.link import Link, open_link
from repocell.models import Limits, OverlayTree, PlainTree
from repocell.runtimes.bubblewrap import Bubblewrap
from repocell.workspaces.copying import copy
from repocell.workspaces.layers import FLATTEN_ABOVE, Layers

pytestmark = pytest.mark.anyio
Cell = Callable[[OverlayTree | PlainTree], AbstractAsyncContextManager[Link]]
GIVEN = "mkdir -p old/deep; echo 1 > old/deep/f; echo 2 > g; ln -s g link; chmod 755 g; touch -d 2001-02-03 g"


@pytest.fixture
def cell(runtime: Bubblewrap, folder: Path) -> Cell:
    """Opens a sandbox on a tree."""
    spec = cell_spec(runtime, folder, Limits())

    @asynccontextmanager
    async def start(tree: OverlayTree | PlainTree) -> AsyncGenerator[Link]:
        chosen = spec.model_copy(update={"tree": tree})
        async with runtime.open(chosen) as stream, open_link(stream, chosen.limits, chosen.environment) as link:
            yield link

    return start


@pytest.fixture
def layers(runtime: Bubblewrap, folder: Path) -> Layers:
    path = folder / "layers"
    path.mkdir(mode=0o755)
    identity = runtime.identity
    return Layers(path, (identity.uid, identity.gid) if identity.drop else None, overlay=True)


@pytest.fixture
async def base(layers: Layers, cell: Cell) -> str:
    """A layer that holds what GIVEN makes."""
    made = layers.make(empty=False)
    async with cell(layers.plain(made)) as link:
        await ran_well(link, GIVEN)
    return made


@pytest.fixture(params=["overlay", "copy"])
async def tree(
    request: pytest.FixtureRequest, base: str, layers: Layers, cell: Cell, folder: Path
) -> OverlayTree | PlainTree:
    """A writable tree with the files of that layer: stacked on it, or a copy of it."""
    if request.param == "overlay":
        return stacked(layers, folder, (base,))
    plain = layers.make(empty=False)
    async with cell(layers.plain(base)) as source, cell(layers.plain(plain)) as target:
        await copy(source, target)
    return layers.plain(plain)


def stacked(layers: Layers, folder: Path, lowers: tuple[str, ...]) -> OverlayTree:
    (folder / "mount").mkdir(exist_ok=True)
    return layers.stacked(layers.make(empty=True), lowers, folder / "mount")


def host_view(layers: Layers, layer: str) -> str:
    """Every file of a layer as the host sees it."""
    argv = ["find", str(layers.path(layer)), "-printf", "%P %y %m %s %T@ %l\\n"]
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


async def test_everything_of_a_lower_layer_is_there(cell: Cell, tree: OverlayTree | PlainTree) -> None:
    """Content, modes, times and links come up as they were written below."""
    async with cell(tree) as link:
        said = await ran_well(link, "cat old/deep/f g link; stat -c '%a %Y' g; readlink link")
    assert said == "1\n2\n2\n755 981158400\ng"


async def test_deleted_and_replaced_things_stay_so_across_mounts(cell: Cell, tree: OverlayTree | PlainTree) -> None:
    """A file deleted, a directory replaced by a new one of its name, and a type changed, are so in the next sandbox too."""
    async with cell(tree) as link:
        await ran_well(link, "rm g; rm -r old; mkdir old; echo new > old/n; rm link; mkdir link")
    for _ in range(2):
        async with cell(tree) as link:
            assert await ran_well(link, "find . | sort") == ".\n./link\n./old\n./old/n"


async def test_what_lies_below_is_never_written(
    cell: Cell, layers: Layers, base: str, tree: OverlayTree | PlainTree
) -> None:
    """Whatever a cell does to its files, the layer below keeps every byte, mode and time."""
    before = host_view(layers, base)
    async with cell(tree) as link:
        await ran_well(
            link, "echo 3 >> g; chmod 600 old/deep/f; touch old; rm link; mkdir x; echo > old/deep/h; rm -rf old"
        )
    assert host_view(layers, base) == before


async def test_files_belong_to_the_one_user_of_every_cell(cell: Cell, tree: OverlayTree | PlainTree) -> None:
    """One uid for ever: git compares owners, and another one would make every file look changed."""
    async with cell(tree) as link:
        assert await ran_well(link, "find . -printf '%u\\n' | sort -u; id -un") == "agent\nagent"


async def test_git_need_not_read_files_again(cell: Cell, layers: Layers, folder: Path) -> None:
    """What git noted of the files when a layer was made is still true of them in a cell stacked on it.

    diff-files believes its notes or lists the file. The control: a file whose time changed is listed.
    """
    base = layers.make(empty=False)
    async with cell(layers.plain(base)) as link:
        await ran_well(
            link, 'git init -q; for n in $(seq 50); do echo "$n" > "f$n"; done; git add .; git commit -qm all'
        )
        await ran_well(link, 'touch -d "@$(( $(date +%s) + 2 ))" .git/index')
    async with cell(stacked(layers, folder, (base,))) as link:
        newer = 'test -z "$(find . -path ./.git -prune -o -newer .git/index -print)" && echo index is newest'
        assert await ran_well(link, f"git diff-files --name-only; {newer}") == "index is newest"
        assert await ran_well(link, "touch -d 2002-02-02 f7; git diff-files --name-only") == "f7"


async def test_a_directory_from_below_moves_by_copying(cell: Cell, tree: OverlayTree | PlainTree) -> None:
    """The guest's move works where rename(2) answers EXDEV, as it does for a directory of a lower layer and for no other."""
    program = "import os, errno\ntry: os.rename('old', 'moved')\nexcept OSError as e: print(errno.errorcode[e.errno])"
    async with cell(tree) as link:
        said = await ran_well(link, f"cat > /tmp/r.py <<'X'\n{program}\nX\npython3 /tmp/r.py")
        if isinstance(tree, OverlayTree):
            assert said == "EXDEV"
            await link.move("old", "moved", root="/workspace")
        else:
            assert said == ""
        assert await ran_well(link, "cat moved/deep/f; ls -d old 2>/dev/null || echo gone") == "1\ngone"
        assert await ran_well(link, "mkdir fresh; mv -T fresh renamed; ls -d renamed") == "renamed"


async def test_as_many_layers_as_are_ever_stacked_can_be_mounted(cell: Cell, layers: Layers, folder: Path) -> None:
    """Their names fit into the kernel's one page of options; the newest wins."""
    names: list[str] = []
    for number in range(FLATTEN_ABOVE):
        name = layers.make(empty=number > 0)
        part = layers.path(name) / "workspace"
        part.mkdir(exist_ok=True)
        (part / "same").write_text(f"{number}\n")
        (part / f"only-{number}").write_text("")
        names.insert(0, name)
    async with cell(stacked(layers, folder, tuple(names))) as link:
        assert await ran_well(link, "cat same; ls | wc -l") == f"{FLATTEN_ABOVE - 1}\n{FLATTEN_ABOVE + 1}"


async def test_two_cells_on_one_layer_do_not_see_each_other(
    cell: Cell, layers: Layers, base: str, folder: Path
) -> None:
    """Side by side over the same layer, each has its own writes and deletions."""
    other = folder / "other"
    other.mkdir()
    one, two = stacked(layers, folder, (base,)), layers.stacked(layers.make(empty=True), (base,), other)
    async with cell(one) as first, cell(two) as second:
        await ran_well(first, "rm g; echo one > mine")
        await ran_well(second, "echo two > g")
        assert await ran_well(first, "ls; cat mine") == "link\nmine\nold\none"
        assert await ran_well(second, "cat g; ls mine 2>/dev/null || echo none") == "two\nnone"
