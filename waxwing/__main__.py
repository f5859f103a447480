"""`python -m waxwing`: the command, where it is not installed."""

from waxwing.cli import main

main()
