"""`python -m tvlens.cli`."""

from . import main

main()
