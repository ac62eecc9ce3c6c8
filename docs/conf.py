"""Configuration of Sphinx for `make docs`."""

import re
import shutil
from importlib import metadata
from pathlib import Path

import typer.cli
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.domains.python import PyObject
from sphinx.util import logging

HERE = Path(__file__).parent

project = "tvlens"
author = "the tvlens authors"
version = release = metadata.version("tvlens")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

html_theme = "furo"
html_title = "tvlens"
html_static_path = ["_static"]
html_css_files = ["tvlens.css"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"  # defined below; needs no font, script or network

# Docstrings have Google's sections; single backticks are code, and links if the name exists.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_attr_annotations = False  # signatures contain the shapes
napoleon_use_rtype = False
next(f for f in PyObject.doc_field_types if f.name == "variable").label = "Attributes"
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Notebooks are stored without outputs and executed by tests.
nb_execution_mode = "off"


def gather_notebooks() -> None:
    """Copy the notebooks to the folder that Sphinx reads, with a page that lists them.

    Unchanged files keep their modification time, so Sphinx does not read them again.
    """
    folder = HERE / "notebooks"
    folder.mkdir(exist_ok=True)
    files = sorted(HERE.parent.glob("notebooks/*.ipynb"))
    for stale in {path.name for path in folder.glob("*.ipynb")} - {path.name for path in files}:
        (folder / stale).unlink()
    for path in files:
        shutil.copy2(path, folder)
    names = "\n".join(path.stem for path in files)
    toctree = f"```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n" if files else ""
    page = f"# Notebooks\n\nRun them in Jupyter; they are stored without outputs.\n\n{toctree}"
    if not (folder / "index.md").is_file() or (folder / "index.md").read_text() != page:
        (folder / "index.md").write_text(page)


gather_notebooks()


def mathml(tex: str, *, display: str) -> str:
    """Convert a formula to MathML, which browsers render; warn about unknown commands."""
    formula = convert(tex, display=display)
    if "\\" in formula:
        logging.getLogger(__name__).warning("unknown command in the formula: %s", tex)
    return formula


def inline_math(writer, node) -> None:
    writer.body.append(mathml(node.astext(), display="inline"))
    raise nodes.SkipNode


def display_math(writer, node) -> None:
    writer.body.append(f'<div class="math">{mathml(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def plain_signature(app, what, name, obj, options, signature, returns):
    """Simplify a signature: shapes without their module, factories as an ellipsis."""
    if signature is None:
        return None
    signature = re.sub(r"~?\bjaxtyping\.", "", signature).replace("<factory>", "...")
    return signature, returns


def command_line(app, docname: str, source: list[str]) -> None:
    """Append Typer's description of every command to the page of the command line."""
    if docname != "api/cli":
        return
    from tvlens.cli import app as commands

    context = typer.Context(typer.main.get_command(commands))
    text = typer.cli.get_docs_for_click(obj=context.command, ctx=context, name="tvlens")
    _, *parts = text.split("\n## ")
    source[0] += "".join(f"\n## {part}" for part in parts)


def no_empty_last_line(app, doctree) -> None:
    """Remove the empty line that doctest needs before a closing fence."""
    for block in doctree.findall(nodes.literal_block):
        block.rawsource = block.rawsource.rstrip("\n")
        block.children = [nodes.Text(block.astext().rstrip("\n"))]


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("source-read", command_line)
    app.connect("doctree-read", no_empty_last_line)
