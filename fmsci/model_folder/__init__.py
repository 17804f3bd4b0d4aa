"""The portable model folder: config.json, model.safetensors, normalization.json, README.md (its card). Runs no code."""
