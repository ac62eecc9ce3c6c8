"""`tvlens tasks` and `tvlens zoo`: lists of built-in tasks and packaged models."""

from typing import Annotated

import typer

from ..signals import interruptible

zoo = typer.Typer(
    help="List pretrained models, which are installed from package registries.",
    invoke_without_command=True,
)


def tasks() -> None:
    """List the built-in tasks."""
    from ..tasks import Task

    for name in Task.names():
        task = Task.load(name)
        x, y = task.pairs[0]
        print(f"{name:18} {len(task):4} pairs  {task.description} ({x} -> {y})")


@zoo.callback()
def zoo_list(context: typer.Context) -> None:
    """List the models of the zoo: name, size, license, and whether the cache has it."""
    if context.invoked_subcommand:
        return
    from ..models import zoo as store

    for entry in store.ZOO.values():
        place = (
            "in the cache" if store.is_cached(entry.name) else f"{entry.download_mb} MB to fetch"
        )
        place = "with tvlens" if entry.shipped else place
        size = f"{entry.disk_mb:5} MB on disk"
        print(f"{entry.name:14} {place:16} {size}  {entry.licence:18} {entry.description}")
    print(f"cache: {store.cache_folder()}")


@zoo.command("get")
def zoo_get(name: Annotated[str, typer.Argument(help="Name in the zoo.")]) -> None:
    """Download a model of the zoo, verify it, and convert it into the cache."""
    from ..models import zoo as store

    with interruptible():
        print(store.get(name))
