"""The package: public names, modules, types, dependencies."""

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


def test_every_module_is_an_attribute_in_a_fresh_interpreter():
    modules = [name for name in tvlens.__all__ if name in tvlens._MODULES]
    code = f"""
import sys
import tvlens as tv

assert not {{"torch", "transformers", "transformer_lens", "numpy"}} & set(sys.modules)
first = {modules!r}
for name in first:
    assert getattr(tv, name) is sys.modules["tvlens." + name], name
assert all(callable(f) for f in (tv.load, tv.collect, tv.patch, tv.extract, tv.evaluate))
assert tv.zoo is sys.modules["tvlens.models.zoo"]
missing = [name for name in tv.__all__ if not hasattr(tv, name)]
assert not missing, missing
assert set(dir(tv)) == set(tv.__all__)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_top_level_module_is_public_or_internal():
    top_level = {name.split(".")[1] for name in MODULES}
    assert top_level - INTERNAL == {*tvlens._MODULES}


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tvlens.nothing


def test_no_name_shadows_a_module():
    """`import a.b as m` gives what the package `a` calls `b`, which must be the module."""
    modules = {name: importlib.import_module(name) for name in MODULES}
    parents = {name: importlib.import_module(name.rsplit(".", 1)[0]) for name in MODULES}
    hidden = {
        name
        for name, module in modules.items()
        if getattr(parents[name], name.rsplit(".", 1)[1]) is not module
    }
    assert not hidden


def test_public_modules_are_exactly_the_listed_ones():
    for name in tvlens.__all__:
        value = getattr(tvlens, name)
        is_module = isinstance(value, types.ModuleType)
        assert is_module == (name in {*tvlens._MODULES, "zoo"}), name


def test_type_checking_imports_equal_lazy_names():
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


def test_package_is_marked_as_typed():
    assert (SOURCE / "py.typed").is_file()
    assert PROJECT["version"] == tvlens.__version__


def test_every_public_signature_is_annotated():
    for name, function in _public_functions():
        signature = function.args
        parameters = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
        parameters += [
            argument for argument in (signature.vararg, signature.kwarg) if argument is not None
        ]
        unannotated = [argument.arg for argument in parameters if argument.annotation is None]
        assert set(unannotated) <= {"self", "cls"}, (name, unannotated)
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
def test_literal_choices_equal_their_table(names, table):
    choices = _attribute(names)
    assert get_origin(choices) is Literal
    assert set(get_args(choices)) == set().union(*(_attribute(one) for one in table))


def test_declared_dependencies_equal_imported_packages():
    declared = {_distribution(requirement) for requirement in PROJECT["dependencies"]}
    optional = PROJECT["optional-dependencies"]["lora"]
    imported = set(_imported_packages())
    distributions = metadata.packages_distributions()
    # IPython is imported only where it runs already; adapters are an extra that may be missing.
    needed = {
        distribution.lower().replace("_", "-")
        for package in imported - {"IPython", *map(_distribution, optional)}
        for distribution in distributions[package]
    }
    # Transformers imports gguf to read the files of that name.
    assert needed == declared - {"gguf"}


@pytest.mark.tl3
def test_internals_of_other_packages_exist():
    versions = {name: metadata.version(name) for name in ("transformer-lens", "transformers")}
    missing = [f"{part.module}.{part.name} ({part.purpose})" for part in missing_internals()]
    assert not missing, f"{versions} lack what tvlens uses: {'; '.join(missing)}"


def test_imported_internals_of_transformer_lens_are_listed():
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
            prefix = f"{file}: "
            body = [node]
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                prefix, body = f"{file}: {node.name}.", node.body
            for member in body:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    yield prefix + member.name, member


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
