"""fmsci: from equations to a pretrained, fine-tuned and measured neural operator."""

__version__ = "0.1.0"
