"""The command `inferd`: serve models, list them, verify them, or ask one from the command line.

What loads models is imported by the commands that load some: a supervisor does not, and should take no memory for it.
"""

from service.cli.command import main

__all__ = ["main"]
