"""One training run: build, loop, monitor."""
