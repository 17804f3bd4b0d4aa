"""The model: one device, no ranks, plain arguments."""
