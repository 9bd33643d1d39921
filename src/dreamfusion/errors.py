"""The one exception for anything the user can put right; the CLI prints its single line and exits with 1."""


class DreamFusionError(Exception):
    """A problem with input, files or the machine: one clear line that says what to do."""
