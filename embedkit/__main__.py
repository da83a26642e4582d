"""`python -m embedkit` is the command `embedkit`."""

from embedkit.cli import run

run()
