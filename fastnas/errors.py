"""Errors: one line that says what is wrong, by which rule, what was given, and what to do."""

from fastnas_kernels.check import Unavailable, complaint, invalid, require

__all__ = ["Unavailable", "complaint", "invalid", "require"]
