"""A procedural world of toys whose geometry is known, and the small prior that is trained on it."""

from pathlib import Path

EMBEDDED_PRIOR = Path(__file__).parent / "prior"
"""Folder of the prior that ships with the package."""
