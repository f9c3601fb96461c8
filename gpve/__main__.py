"""``python -m gpve``: the same program as ``gpve``."""

from gpve.cli.main import main

main()
