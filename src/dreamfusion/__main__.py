"""``python -m dreamfusion`` is the same as ``dreamfusion``."""

from dreamfusion.cli import main

main()
