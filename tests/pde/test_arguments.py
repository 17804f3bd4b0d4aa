"""The exact solver takes what a trained model takes: names, numbers or one for each, numpy or torch."""

import numpy as np
import pytest
import torch

from fmsci.errors import ArgumentError
from fmsci.pde import SYSTEMS, solve

RNG = np.random.default_rng(0)
F = RNG.normal(size=(3, 12, 16))
K = {"k11": 0.02, "k22": 0.03, "k12": 0.004}


def test_names_mappings_and_columns_mean_the_same():
    expected = solve("poisson", F, [0.02, 0.03, 0.004])
    assert np.array_equal(solve("poisson", F, **K), expected)
    assert np.array_equal(solve("poisson", F, K), expected)
    assert np.array_equal(solve(SYSTEMS["poisson"], F, {"k11": 0.02}, k22=0.03, k12=0.004), expected)
    assert np.array_equal(solve("poisson", F[1], **K), expected[1])


def test_one_source_serves_many_coefficients():
    u = solve("poisson", F[0], **{**K, "k11": [0.02, 0.05]})
    assert u.shape == (2, 12, 16)
    assert np.array_equal(u[1], solve("poisson", F[0], **{**K, "k11": 0.05}))


def test_a_tensor_comes_back_as_a_tensor():
    u = solve("poisson", torch.from_numpy(F).float().requires_grad_(), **{**K, "k11": torch.tensor(0.02).double()})
    assert isinstance(u, torch.Tensor)
    assert u.dtype == torch.float64
    assert np.allclose(u.numpy(), solve("poisson", F.astype(np.float32), **K), atol=1e-9)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: solve("posson", F, **K), "there is no system 'posson' (did you mean 'poisson'?); choose poisson, "),
        (lambda: solve("poisson", F), "poisson takes k11, k22, k12: k11 is missing, k22 is missing, k12 is missing"),
        (lambda: solve("poisson", F, [0.02, 0.03, 0.0], k11=1), "coefficients are given twice: as an array, and k11"),
        (lambda: solve("poisson", F, [0.02, np.nan, 0.0]), "coefficients holds a value that is not finite"),
        (lambda: solve("poisson", F, **{**K, "k12": 1.0}), "the diffusion tensor K must be positive definite"),
        (lambda: solve("poisson", F[0, 0], **K), "source must be (ny, nx) or (B, ny, nx), got (16,)"),
    ],
)
def test_a_mistake_is_a_sentence(call, sentence):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert str(caught.value).startswith(sentence)
