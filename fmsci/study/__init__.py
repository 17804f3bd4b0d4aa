"""The studies: which runs they need, making them, collecting them, the report."""
