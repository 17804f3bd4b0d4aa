"""``python -m fmsci`` is ``fmsci``: torchrun starts it so."""

from fmsci.cli import main

main()
