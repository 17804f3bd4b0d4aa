"""A trained model in use: load and solve, files of samples, torch.export, the paper's checkpoints, sharing."""
