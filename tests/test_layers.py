"""The arrows between our modules point down, and only the modules that may do so import what they guard."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import repocell

ROOT = Path(repocell.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

AUDIT = ("audit", "audit_anchors", "audit_export", "audit_trail", "audit_view")
# Lower layers first. A module may import from its own layer and below; the longest prefix names its layer.
LAYERS = (
    ("errors", "globs", "redaction", "together", "__init__", "migrations"),
    ("models",),
    ("config", *AUDIT, "guest", "runtimes", "store", "clones", "repos"),
    ("workspaces", "policy"),
    ("tools",),
    ("gate", "auth"),
    ("app",),
    ("admin", "audit_cli"),
    ("cli",),
)
GUARDED = {
    "docker": ("runtimes/docker.py",),
    "git": ("repos.py",),
    "mcp": ("gate.py", "auth.py", "app.py"),
    "mcp_types": ("gate.py", "auth.py", "app.py"),
}
SEES_ONLY_VALUES = ("policy",)


def layer_of(module: str) -> int:
    first = module.split("/")[0].removesuffix(".py")
    return next(number for number, names in enumerate(LAYERS) if first in names)


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(file: Path) -> Iterator[tuple[str, ast.stmt, bool]]:
    """Every import as (dotted name, statement, at module level); relative ones are made absolute."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    top = set(tree.body)
    package = ["repocell", *file.relative_to(ROOT).with_suffix("").parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node, node in top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{module}.{alias.name}", node, node in top


def own_target(dotted: str) -> str | None:
    """The file of ours that an import reaches, relative to the package; None for foreign ones."""
    parts = dotted.split(".")
    if parts[0] != "repocell":
        return None
    for length in (len(parts), len(parts) - 1):
        path = ROOT.joinpath(*parts[1:length])
        if path.with_suffix(".py").is_file() and length > 1:
            return path.with_suffix(".py").relative_to(ROOT).as_posix()
        if (path / "__init__.py").is_file():
            return (path / "__init__.py").relative_to(ROOT).as_posix()
    raise AssertionError(f"{dotted} is no module of ours")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_down(file: Path) -> None:
    """No module imports from a layer above its own."""
    mine = layer_of(name_of(file))
    targets = [own_target(name) for name, _, _ in imports(file)]
    assert [target for target in targets if target is not None and layer_of(target) > mine] == []


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_guarded_libraries_have_one_importer(file: Path) -> None:
    """docker, git and mcp are imported only where the design says."""
    found = {name.split(".")[0] for name, _, _ in imports(file)}
    assert [library for library in found & set(GUARDED) if name_of(file) not in GUARDED[library]] == []


@pytest.mark.parametrize("file", [f for f in FILES if name_of(f).split("/")[0] in SEES_ONLY_VALUES], ids=name_of)
def test_policy_sees_only_values(file: Path) -> None:
    """Policy imports values and itself, nothing that could do I/O on its behalf."""
    targets = {own_target(name) for name, _, _ in imports(file)} - {None}
    allowed = ("models.py", "errors.py", "globs.py", "policy/")
    assert [target for target in targets if target is not None and not target.startswith(allowed)] == []


@pytest.mark.parametrize("file", [f for f in FILES if name_of(f) != "guest/agent.py"], ids=name_of)
def test_no_import_hides_in_a_function(file: Path) -> None:
    """Imports stand at the top (the guest, whose start-up is on the path of every cold cell, excepted)."""
    assert [name for name, _, top in imports(file) if not top] == []


def test_no_import_cycles() -> None:
    """Following imports never leads back to where it began."""
    graph = {name_of(f): {t for n, _, _ in imports(f) if (t := own_target(n)) and t != name_of(f)} for f in FILES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in graph[module]:
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_environment_is_read_in_one_place(file: Path) -> None:
    """Only config.py touches os.environ (besides the guest, inside its sandbox, and one switch for GitPython)."""
    if name_of(file) in ("config.py", "guest/agent.py", "__init__.py"):
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    reads = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in ("environ", "getenv")]
    assert reads == []


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_module_opens_with_its_rule(file: Path) -> None:
    """Each module has a docstring that says what lives there."""
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_grows_into_a_monster(file: Path) -> None:
    """No module over 400 lines (the guest: 700), no function over 60."""
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= (700 if name_of(file) == "guest/agent.py" else 400)
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > 60] == []
