"""``python -m dreamfusion`` is the same as ``dreamfusion``."""

from dreamfusion.app.cli import main

main()
