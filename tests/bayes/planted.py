"""A TransformerLens model whose inner workings are known: Bayes, laid out along chosen axes."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from tvlens.bayes import extrapolation, learner


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.hook_resid_post = HookPoint()


def positive(p, *, floor=2e-3):
    """p where it is far above the floor, and smoothly above 0 everywhere."""
    return (p + (p.square() + 4 * floor**2).sqrt()) / 2


class Planted(HookedRootModule):
    """One block. Its state holds the weights of the major tasks, the current token, the weight of
    a new task and the log-predictive of the learner, each along its own axes; what it says is read
    off the state. `noise` puts a random state in place of all that.
    """

    def __init__(self, family, *, minor_mass=0.0, context=48, d=24, noise=False, seed=0):
        super().__init__()
        self.family, self.minor_mass, self.noise = family, minor_mass, noise
        v, k = family.vocabulary, family.majors
        self.cfg = SimpleNamespace(
            n_layers=1, n_ctx=context, d_model=d, d_vocab=v, d_vocab_out=v, model_name="planted"
        )
        self.cfg.n_heads, self.cfg.d_head = 1, d
        axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d))).Q
        axes = torch.from_numpy(axes).float()
        self.task, self.token, self.learner, self.new = axes[: k + 2 * v + 1].split([k, v, v, 1])
        self.blocks = nn.ModuleList([Block()])
        self.anchor = nn.Parameter(torch.zeros(1))  # what tells the device
        self.setup()
        self.eval()

    def forward(self, tokens, **_):
        state = self.blocks[0].hook_resid_post(self.state(tokens))
        p = self.family.with_major_tasks().parameters.to(state)
        known = (state @ self.task.to(state).T) @ p
        unknown = (state @ self.new.to(state).T) * (state @ self.learner.to(state).T).softmax(-1)
        return positive(known + unknown).log()

    def state(self, tokens):
        if self.noise:
            made = torch.Generator().manual_seed(int(tokens.sum()))
            return torch.randn(*tokens.shape, self.cfg.d_model, generator=made)
        found = extrapolation(self.family, tokens, minor_mass=self.minor_mass)
        known, new = found.posterior.float().split([self.family.majors, 1], -1)
        counted = learner(self.family, tokens).predictive.float().log()
        told = new * self.new + counted @ self.learner
        return known @ self.task + self.token[tokens] + (told if self.minor_mass else 0 * told)
