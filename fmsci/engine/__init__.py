"""How a step runs on many devices: two engines behind one interface."""
