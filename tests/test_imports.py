"""Imports form no circle: no module imports, even indirectly, a module that imports it.

Imports inside functions and those for type checkers count too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tvlens

pytestmark = pytest.mark.no_arithmetic

SOURCE = Path(tvlens.__file__).parent

TESTS = Path(__file__).parent
# Tests of a whole package, which no one file answers for.
OF_PACKAGES = {"cli/test_cli.py", "viz/test_browser.py"}


def test_imports_form_no_circle():
    assert find_circles(import_graph(SOURCE)) == []


def test_tests_below_a_package_are_named_after_a_file_of_it():
    for path in TESTS.glob("*/**/test_*.py"):
        name = path.relative_to(TESTS)
        source = SOURCE / name.parent / name.name.removeprefix("test_")
        assert source.is_file() or name.as_posix() in OF_PACKAGES, name


def test_packages_import_in_one_direction():
    graph: dict[str, set[str]] = {}
    for module, targets in import_graph(SOURCE).items():
        graph.setdefault(_package(module), set()).update(_package(one) for one in targets)
    assert find_circles({name: graph[name] - {name} for name in graph}) == []


def test_find_circles_names_the_modules_of_each_circle():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"g"}}
    graph["g"] = {"f"}
    assert find_circles(graph) == [["a", "b", "c"], ["f", "g"]]


def import_graph(source: Path) -> dict[str, set[str]]:
    """Every module of a package with the modules of the package that it imports."""
    files = {_module_name(source, path): path for path in source.rglob("*.py")}
    graph = {}
    for module, path in files.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        graph[module] = {
            next(name for name in names if name in files)
            for names in _imported_names(path, package)
            if any(name in files for name in names)
        } - {module}
    return graph


def find_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two modules or more that reach each other, each sorted by name."""
    reachable = {module: _reachable(graph, module) for module in graph}
    circles = {
        tuple(sorted(other for other in reachable[module] if module in reachable[other]))
        for module in graph
        if module in reachable[module]
    }
    return sorted(map(list, circles))


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _module_name(source: Path, path: Path) -> str:
    parts = path.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_names(path: Path, package: str) -> Iterator[tuple[str, ...]]:
    """For every imported name, the modules it may be or come from, the longest first."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*parts, *filter(None, [node.module])])
            yield from ((f"{module}.{alias.name}", module) for alias in node.names)


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Modules that a module imports, directly or through others."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - reached
        reached |= new
        waiting.extend(new)
    return reached
