"""`tvlens tasks` and `tvlens zoo`: what is at hand."""

from typing import Annotated

import typer

from ..signals import interruptible

zoo = typer.Typer(help="Real weights that come as packages.", invoke_without_command=True)


def tasks() -> None:
    """List the catalogue of tasks."""
    from ..tasks import Task

    for name in Task.names():
        found = Task.load(name)
        x, y = found.pairs[0]
        print(f"{name:18} {len(found):4} pairs  {found.description} ({x} -> {y})")


@zoo.callback()
def zoo_list(context: typer.Context) -> None:
    """List the zoo: names, sizes, licences, and what is in the cache."""
    if context.invoked_subcommand:
        return
    from ..models import zoo as store

    for entry in store.ZOO.values():
        where = "in the cache" if store.at_hand(entry.name) else f"{entry.download_mb} MB to fetch"
        where = "with tvlens" if entry.shipped else where
        size = f"{entry.disk_mb:5} MB on disk"
        print(f"{entry.name:14} {where:16} {size}  {entry.licence:18} {entry.description}")
    print(f"cache: {store.cache_folder()}")


@zoo.command("get")
def zoo_get(name: Annotated[str, typer.Argument(help="A name of the zoo.")]) -> None:
    """Fetch a zoo model, check it, and convert it into the cache."""
    from ..models import zoo as store

    with interruptible():
        print(store.get(name))
