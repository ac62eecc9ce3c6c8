"""`python -m tvlens` is the command `tvlens`."""

from .cli import main

main()
