"""The package as others see it: its names, its modules, its types, what it needs."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import tvlens
from tvlens.models.internals import INTERNALS, missing_internals

pytestmark = pytest.mark.no_arithmetic

SOURCE = Path(tvlens.__file__).parent
PROJECT = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = [m.name for m in pkgutil.walk_packages(tvlens.__path__, "tvlens.")]
MODULES = [name for name in MODULES if not name.endswith("__main__")]

# Parts of the package that nobody outside it should need.
INTERNAL = {
    "cli",
    "deprecation",
    "field_checks",
    "file_names",
    "files",
    "folder_lock",
    "integers",
    "progress",
    "results",
    "saved",
    "signals",
}


def test_every_part_is_reachable_in_a_fresh_interpreter():
    parts = [name for name in tvlens.__all__ if name in tvlens._MODULES]
    code = f"""
import sys
import tvlens as tv

assert not {{"torch", "transformers", "transformer_lens", "numpy"}} & set(sys.modules)
first = {parts!r}
for name in first:
    assert getattr(tv, name) is sys.modules["tvlens." + name], name
assert all(callable(f) for f in (tv.load, tv.collect, tv.patch, tv.extract, tv.evaluate))
assert tv.zoo is sys.modules["tvlens.models.zoo"]
missing = [name for name in tv.__all__ if not hasattr(tv, name)]
assert not missing, missing
assert set(dir(tv)) == set(tv.__all__)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_part_is_listed():
    found = {name.split(".")[1] for name in MODULES}
    assert found - INTERNAL == {*tvlens._MODULES}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tvlens.nothing


def test_no_name_hides_a_module():
    """`import a.b as m` gives what the package `a` calls `b`, which must be the module."""
    modules = {name: importlib.import_module(name) for name in MODULES}
    parents = {name: importlib.import_module(name.rsplit(".", 1)[0]) for name in MODULES}
    hidden = {
        name
        for name, module in modules.items()
        if getattr(parents[name], name.rsplit(".", 1)[1]) is not module
    }
    assert not hidden


def test_no_public_name_is_a_part_of_another_kind():
    for name in tvlens.__all__:
        value = getattr(tvlens, name)
        is_module = isinstance(value, types.ModuleType)
        assert is_module == (name in {*tvlens._MODULES, "zoo"}), name


def test_a_type_checker_sees_the_names_that_python_sees():
    """The imports for type checkers, each explicitly exported, are the lazy names."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    names = [alias for node in guarded.body for alias in node.names]
    assert all(alias.name == alias.asname for alias in names)
    assert {alias.name for alias in names} == {*tvlens.__all__} - {"__version__"}
    for node in guarded.body:
        for alias in node.names:
            if node.module is not None:
                assert f"{node.module}.".startswith(tvlens._NAMES[alias.name] + "."), alias.name


def test_the_package_says_that_it_is_typed():
    assert (SOURCE / "py.typed").is_file()
    assert PROJECT["version"] == tvlens.__version__


def test_every_public_signature_is_annotated():
    for name, function in _public_functions():
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        bare = [one.arg for one in every if one.annotation is None]
        assert set(bare) <= {"self", "cls"}, (name, bare)
        assert function.returns is not None, name


@pytest.mark.parametrize(
    ("names", "table"),
    [
        ("sites.SiteName", ("sites.COMPONENTS", "sites.ALIASES")),
        ("vectors.extraction.MethodName", ("vectors.METHODS",)),
        ("models.readouts.ReadoutName", ("models.READOUTS",)),
        ("studies.matrices.study.PresetName", ("studies.matrices.PRESETS",)),
        ("studies.latent.config.PresetName", ("studies.latent.PRESETS",)),
        ("studies.latent.config.FamilyName", ("studies.latent.config.FAMILIES",)),
        ("studies.latent.config.ScheduleName", ("studies.latent.config._SCHEDULES",)),
        ("studies.crossmodal.study.PresetName", ("studies.crossmodal.PRESETS",)),
    ],
)
def test_named_choices_are_those_of_their_table(names, table):
    choices = _attribute(names)
    assert get_origin(choices) is Literal
    assert set(get_args(choices)) == set().union(*(_attribute(one) for one in table))


def test_every_imported_package_is_declared_and_every_declared_one_is_imported():
    declared = {_distribution(requirement) for requirement in PROJECT["dependencies"]}
    optional = PROJECT["optional-dependencies"]["lora"]
    imported = set(_imported_packages())
    known = metadata.packages_distributions()
    # IPython is imported only where it runs already; adapters are an extra that may be missing.
    needed = {
        distribution.lower().replace("_", "-")
        for package in imported - {"IPython", *map(_distribution, optional)}
        for distribution in known[package]
    }
    # Transformers imports gguf to read the files of that name.
    assert needed == declared - {"gguf"}


@pytest.mark.tl3
def test_the_parts_of_other_packages_that_are_used_exist():
    versions = {name: metadata.version(name) for name in ("transformer-lens", "transformers")}
    missing = [f"{part.module}.{part.name} ({part.purpose})" for part in missing_internals()]
    assert not missing, f"{versions} lack what tvlens uses: {'; '.join(missing)}"


def test_what_is_used_of_other_packages_is_listed():
    listed = {(part.module, part.name.split(".")[0]) for part in INTERNALS}
    used = set()
    for _, tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and re.match(
                r"transformer_lens\.", node.module or ""
            ):
                used |= {(node.module, alias.name) for alias in node.names}
    assert used == {part for part in listed if part[0].startswith("transformer_lens.")}


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), ast.parse(path.read_text(encoding="utf-8"))


def _public_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods without an underscore, of classes without one."""
    for file, tree in _sources():
        for node in tree.body:
            owner = f"{file}: "
            body = [node]
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                owner, body = f"{file}: {node.name}.", node.body
            for one in body:
                if isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
                    yield owner + one.name, one


def _attribute(path: str) -> object:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(f"tvlens.{module}"), name)


def _imported_packages() -> Iterator[str]:
    for _, tree in _sources():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            yield from {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"tvlens"}


def _distribution(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9-]+", requirement)[0].lower()
