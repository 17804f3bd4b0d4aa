"""Sources against the plain sum over 144 Gaussians, and their distributions."""

import numpy as np
import pytest

from fmsci.pde import sources
from fmsci.pde.grid import forward, points


def plain_sum(amplitudes, n):
    """Return one source as the sum that the paper writes, one exponential per Gaussian and pixel."""
    x, y = np.meshgrid(points(n), points(n))
    f = np.zeros((n, n))
    for i in range(12):
        for j in range(12):
            cx, cy = 0.15625 + j / 16, 0.15625 + i / 16
            f += amplitudes[i, j] * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (1 / 32) ** 2))
    return f / f.max()


def built(builder, amplitudes):
    """Return the fields and spectra of several sources."""
    made = []
    for a in amplitudes:
        builder.build(a)
        made.append((builder.field.copy(), builder.field_hat.copy()))
    return [np.stack(part) for part in zip(*made, strict=True)]


def drawn(count):
    return sources.build_amplitudes(np.random.default_rng(0).random((count, sources.NUM_UNIFORMS)))


@pytest.mark.parametrize("n", [16, 33, 128])
def test_separable_source_is_the_plain_sum(n):
    amplitudes = drawn(3)
    field, field_hat = built(sources.SourceBuilder(n, keep_mean=True), amplitudes)
    for a, f in zip(amplitudes, field, strict=True):
        assert np.abs(f - plain_sum(a, n)).max() < 5e-15
    assert np.abs(field_hat - np.fft.rfft2(field)).max() < 1e-14 * n * n
    assert np.allclose(field.max(axis=(1, 2)), 1, rtol=1e-15, atol=0)


def test_the_mean_is_removed_after_the_division():
    amplitudes = drawn(4)
    kept, _ = built(sources.SourceBuilder(32, keep_mean=True), amplitudes)
    field, field_hat = built(sources.SourceBuilder(32, keep_mean=False), amplitudes)
    assert np.abs(field.mean(axis=(1, 2))).max() < 1e-16
    assert np.all(field_hat[:, 0, 0] == 0)
    assert np.allclose(field, kept - kept.mean(axis=(1, 2), keepdims=True), atol=1e-15)
    assert np.abs(field_hat - forward(field)).max() < 1e-11


@pytest.mark.parametrize(("n", "largest"), [(64, 24), (16, 8), (21, 10)])
def test_bands_are_pieces_of_the_spectrum(n, largest):
    amplitudes = drawn(2)
    bands = sources.build_bands(amplitudes, n, largest)
    whole = np.fft.rfft2(sources.profiles(n) @ amplitudes @ sources.profiles(n).T)
    rows = np.abs(np.fft.fftfreq(n, 1 / n)) <= largest
    assert np.abs(bands - whole[:, rows, : largest + 1]).max() < 1e-10


def test_at_least_one_amplitude_is_not_zero():
    uniforms = np.zeros((2, sources.NUM_UNIFORMS))  # presence 0 is below every sparsity: nothing is present
    uniforms[1, -1] = 0.999999
    amplitudes = sources.build_amplitudes(uniforms)
    assert [np.flatnonzero(a).tolist() for a in amplitudes.reshape(2, -1)] == [[0], [143]]


def test_distribution_of_sparsity_and_amplitudes():
    rng = np.random.default_rng(1)
    uniforms = rng.random((4000, sources.NUM_UNIFORMS))
    amplitudes = sources.build_amplitudes(uniforms).reshape(4000, -1)
    which = sources.sparsity_index(uniforms[:, 288])
    assert np.all(np.abs(np.bincount(which) - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75))
    for index, sparsity in enumerate((0.2, 0.4, 0.6, 0.8)):
        present = (amplitudes[which == index] != 0).mean()
        assert abs(present - (1 - sparsity)) < 0.01
    heights = amplitudes[amplitudes != 0]
    assert heights.min() >= 1e-3
    assert heights.max() <= 1
    grid = np.linspace(0, 1, 50)  # against the uniform distribution function on [1e-3, 1]
    assert np.abs(np.searchsorted(np.sort(heights), 1e-3 + 0.999 * grid) / heights.size - grid).max() < 0.005
