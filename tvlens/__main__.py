"""Run the command line by `python -m tvlens`."""

from .signals import install_handlers


def main() -> None:
    """Run the command line; signal handlers are installed before the imports."""
    install_handlers()
    from .cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
