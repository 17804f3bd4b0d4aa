"""One dial for size: 64K, 1M, 16M, 256M, and the exact number of real parameters. Pure integers, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fmsci.errors import ArgumentError, UserError, nearest

SIZES = {"64K": (16, 4), "1M": (16, 16), "16M": (32, 32), "256M": (128, 32)}
"""Size -> (width d, modes m), as in arXiv 2306.00258."""

STEP_FLOPS = 3
"""A training step takes so many times the operations of a prediction: the gradient is two products for each one."""

DEFAULT_SIZE, DEFAULT_LAYERS = "1M", 4

MOST_MODES, MOST_MODES_NARROW = 256, 16
"""Modes up to which the sums over kept waves beat the fast transform, for layers of at least 16 channels and fewer."""

MOST_PARAMETERS = 10**13
"""40 TB of weights; from 2^63 on nothing can count them."""

WIDEST = 128
"""Channels up to which a GPU's kernels serve: a tile of a field then fits beside its matrices."""


@dataclass(frozen=True)
class Architecture:
    """The integers that define a Fourier neural operator.

    in_channels: source and coefficient channels; width: channels d of a Fourier layer; modes: kept wavenumbers m
    along each axis; layers: number of Fourier layers.
    """

    in_channels: int
    width: int
    modes: int
    layers: int = DEFAULT_LAYERS

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise UserError(f"the model's {name} is {value} but should be at least 1")
        if self.num_parameters > MOST_PARAMETERS:
            raise UserError(
                f"a model of width {self.width} with {self.modes} modes and {self.layers} layers has "
                f"{self.num_parameters:.0e} parameters, more than fit anywhere"
            )

    @property
    def num_parameters(self) -> int:
        """Exact count of real parameters: 4 d^2 m^2 + d^2 + d per layer, (c + 1) d lift, 2 d^2 + 4 d + 1 head."""
        d, m = self.width, self.modes
        return self.layers * (4 * d * d * m * m + d * d + d) + (self.in_channels + 1) * d + 2 * d * d + 4 * d + 1

    @property
    def largest_parameter_bytes(self) -> int:
        """Bytes of a layer's spectral weights, 4 d^2 m^2 numbers, in float32."""
        return 4 * 4 * self.width**2 * self.modes**2

    @property
    def transform(self) -> str:
        """Which form of the transform is faster on a CPU core: ``dft`` (matrix products) or ``fft``.

        Sums over kept waves cost m operations a number where fast transforms cost a logarithm; and layers narrower
        than a vector register (16 numbers) are slow in matrix products. Every size of the dial takes dft. Measured in
        docs/benchmarks.md; a GPU takes the same.
        """
        return "dft" if self.modes <= (MOST_MODES if self.width >= 16 else MOST_MODES_NARROW) else "fft"

    def choose_transform(self, asked: str = "auto") -> str:
        """Return the form that is asked for, or with ``auto`` the faster one."""
        return self.transform if asked == "auto" else asked

    def joins_lift(self, transform: str = "auto", cpu: bool = False) -> bool:
        """Tell whether the first layer does the lift: in matrix products, on a CPU or in a GPU's kernels."""
        narrow = max(self.width, self.in_channels) <= WIDEST
        return self.choose_transform(transform) == "dft" and (cpu or narrow)

    def flops(self, ny: int, nx: int) -> int:
        """Count of multiplications and additions of one forward pass of one sample; backward takes about twice as many.

        Along y, 2 (m + 1) rows over ny points for nx d columns; along x, 2 m rows over nx points for 2 (m + 1) d
        columns; the same back; four d x d products for each of 2 m^2 wavenumbers; d x d at each point. That is the form
        of fmsci.model.spectral; a CPU takes x first and halves these sums (fmsci.model.transform). Activations are not
        counted.
        """
        d, m, points = self.width, self.modes, ny * nx
        transform = 2 * (2 * (m + 1) * ny * nx * d + 2 * (m + 1) * 2 * m * nx * d)
        mixing = 2 * 4 * d * d * 2 * m * m
        layer = 2 * transform + mixing + 2 * d * d * points
        return self.layers * layer + 2 * self.in_channels * d * points + 2 * 2 * d * d * points + 2 * 2 * d * points

    def saved_bytes(self, ny: int, nx: int, recompute: int = 0, joined: bool = False) -> int:
        """Bytes that a training step keeps of one sample between forward and backward, in float32.

        A field of d channels for each layer's input and one for the head's, and a layer's spectrum: 4 m^2 d numbers.
        With ``recompute`` k, the input of every k-th layer only and no spectrum; in the backward pass the k layers
        between, with their spectra, come and go. ``joined``: see ``joins_lift``; the first layer's input is then the
        caller's own and its spectrum has c channels.
        """
        d, m = self.width, self.modes
        field, spectrum = ny * nx * d, 4 * m * m
        if recompute:
            return 4 * (-(-self.layers // recompute) + (not joined)) * field
        spectra = (self.layers - 1) * d + (self.in_channels if joined else d)
        return 4 * ((self.layers + (not joined)) * field + spectra * spectrum)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain mapping."""
        return asdict(self)


def architecture(
    in_channels: int,
    size: str | None = None,
    width: int | None = None,
    modes: int | None = None,
    layers: int | None = None,
) -> Architecture:
    """Return the architecture at a position of the dial; ``width``, ``modes`` and ``layers`` override it.

    Raises UserError for an unknown size.
    """
    name = size or DEFAULT_SIZE
    if name not in SIZES:
        raise UserError(f"unknown model size '{name}'{nearest(name, SIZES)}; allowed: {', '.join(SIZES)}")
    dial_width, dial_modes = SIZES[name]
    return Architecture(in_channels, width or dial_width, modes or dial_modes, layers or DEFAULT_LAYERS)


def check_grid(modes: int, ny: int, nx: int, trained: bool = False) -> None:
    """Raise ArgumentError where a grid has too few points for the kept wavenumbers: 2 m <= n along both axes.

    A ``trained`` model has its modes: only the grid can be another one.
    """
    if 2 * modes > min(ny, nx):
        needed = f"a model with {modes} modes needs a grid of at least {2 * modes} x {2 * modes}, not {ny} x {nx}"
        advice = "give data on a finer grid" + (
            "" if trained else f", or train from scratch with model.modes={min(ny, nx) // 2}"
        )
        raise ArgumentError(f"{needed}; {advice}")
