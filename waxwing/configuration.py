"""`load`, as flows that inherit their settings import it."""

from waxwing.settings.checking import load

__all__ = ["load"]
