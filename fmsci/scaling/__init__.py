"""How a training step scales: points that are measured, and a cost model that projects beyond them."""
