"""What goes wrong between this machine and a hub of models."""


class ReadTimeoutError(Exception):
    """Like httpx's ReadTimeout, which is of no kind of Python's own."""
