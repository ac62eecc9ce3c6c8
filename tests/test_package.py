"""The package as others see it: its names, its modules, its types, what it needs."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import tvlens

SOURCE = Path(tvlens.__file__).parent
MODULES = [m.name for m in pkgutil.walk_packages(tvlens.__path__, "tvlens.")]
MODULES = [name for name in MODULES if not name.endswith("__main__")]

# Parts of the package that nobody outside it should need.
INTERNAL = {"cli", "files", "saved"}


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
    assert found == {*tvlens._MODULES} | INTERNAL


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
    assert hidden == {"tvlens.patching.attribute", "tvlens.patching.patch"}


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
    origin = {a.name: n.module or a.name for n in guarded.body for a in n.names}
    assert origin == {**dict.fromkeys(tvlens._MODULES), **tvlens._NAMES} | {
        name: name for name in tvlens._MODULES
    }
