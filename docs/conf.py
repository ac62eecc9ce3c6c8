"""How Sphinx makes the documentation: `make docs`."""

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
html_math_renderer = "mathml"  # the one below: no font, no script, no network

# Docstrings have Google's sections, and single backticks for code: a link where the name is known.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_attr_annotations = False  # shapes stand in the signature already
napoleon_use_rtype = False
next(f for f in PyObject.doc_field_types if f.name == "variable").label = "Attributes"
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Notebooks are kept without outputs and run by tests, not here.
nb_execution_mode = "off"


def gather_notebooks() -> None:
    """Copy the notebooks to where Sphinx reads, with a page that lists them.

    A file that is the same keeps its time of change, so it is not read again.
    """
    folder = HERE / "notebooks"
    folder.mkdir(exist_ok=True)
    files = sorted(HERE.parent.glob("notebooks/*.ipynb"))
    for stale in {path.name for path in folder.glob("*.ipynb")} - {path.name for path in files}:
        (folder / stale).unlink()
    for path in files:
        shutil.copy2(path, folder)
    listed = "\n".join(path.stem for path in files)
    listed = f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n" if files else ""
    page = f"# Notebooks\n\nKept without outputs: open one in Jupyter and run it.\n\n{listed}"
    if not (folder / "index.md").is_file() or (folder / "index.md").read_text() != page:
        (folder / "index.md").write_text(page)


gather_notebooks()


def mathml(tex: str, *, display: str) -> str:
    """A formula as MathML, which browsers draw on their own; an unknown command is a warning."""
    formula = convert(tex, display=display)
    if "\\" in formula:
        logging.getLogger(__name__).warning("a command in this formula is not known: %s", tex)
    return formula


def inline_math(writer, node) -> None:
    writer.body.append(mathml(node.astext(), display="inline"))
    raise nodes.SkipNode


def display_math(writer, node) -> None:
    writer.body.append(f'<div class="math">{mathml(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def plain_signature(app, what, name, obj, options, signature, returns):
    """Signatures as they are written: shapes without their module, factories as an ellipsis."""
    if signature is None:
        return None
    signature = re.sub(r"~?\bjaxtyping\.", "", signature).replace("<factory>", "...")
    return signature, returns


def command_line(app, docname: str, source: list[str]) -> None:
    """Typer's own description of every command, at the end of the page about them."""
    if docname != "api/cli":
        return
    from tvlens.cli import app as commands

    context = typer.Context(typer.main.get_command(commands))
    text = typer.cli.get_docs_for_click(obj=context.command, ctx=context, name="tvlens")
    _, *parts = text.split("\n## ")
    source[0] += "".join(f"\n## {part}" for part in parts)


def no_empty_last_line(app, doctree) -> None:
    """Drop the empty line before a closing fence, which keeps doctest from reading the fence."""
    for block in doctree.findall(nodes.literal_block):
        block.rawsource = block.rawsource.rstrip("\n")
        block.children = [nodes.Text(block.astext().rstrip("\n"))]


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("source-read", command_line)
    app.connect("doctree-read", no_empty_last_line)
