"""`python -m tvlens` is the command `tvlens`."""

from .signals import install_handlers


def main() -> None:
    """Entry point: a signal ends it in one line, also while its parts are imported."""
    install_handlers()
    from .cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
