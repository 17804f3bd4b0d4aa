"""torch's Adam without torch's compiler."""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch.optim import Optimizer


class Adam(torch.optim.Adam):
    """torch.optim.Adam (Kingma and Ba, arXiv 1412.6980), bit for bit; AdamW with ``decoupled_weight_decay=True``.

    torch hides the methods below from its compiler, and imports the compiler (torch._dynamo, sympy) to hide them: 1.3 s
    and 140 MB of every process. Nothing here compiles an optimizer, so they are taken as they are.
    """

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by their gradients."""
        return unwrap(torch.optim.Adam.step)(self, closure)
