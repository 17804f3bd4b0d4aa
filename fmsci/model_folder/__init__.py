"""The portable model folder: config.json, model.safetensors, normalization.json, README.md (its card). Runs no code."""

from fmsci.model_folder.reading import ModelFolder, load_operator, load_weights, open_model_folder
from fmsci.model_folder.writing import write_model

__all__ = ["ModelFolder", "load_operator", "load_weights", "open_model_folder", "write_model"]
