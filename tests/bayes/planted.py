"""Models whose states encode the Bayesian posterior along known axes."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from tvlens import bayes
from tvlens.training import Transformer, TransformerConfig, to_transformer_lens

# Settings with which each check runs in little time.
SMALL_CHECKS = {
    "behaviour": dict(sequences=40, splits=["major"]),
    "representation": dict(observations=[6, 8], per_cell=4, resamples=10, null=3),
    "posterior_weights": dict(sequences=100, resamples=10),
    "injection": dict(sequences=16),
    "ablation": dict(sequences=8, null=2, splits=["major"]),
    "novel_tasks": dict(tasks=6, sequences=8, null=10),
}


def untrained_model(family, context=17):
    """A random model with the input format of the family's sequences."""
    is_regression = isinstance(family, bayes.LinearRegression)
    inputs = {"inputs": 6} if is_regression else {"vocab": family.vocabulary}
    config = TransformerConfig(context=context, layers=2, d_model=32, heads=2, **inputs)
    return to_transformer_lens(config, Transformer(config, seed=1).state_dict())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.hook_resid_post = HookPoint()


def softly_positive(p, *, floor=2e-3):
    """A smooth positive function of p, nearly equal to p far above the floor."""
    return (p + (p.square() + 4 * floor**2).sqrt()) / 2


class PlantedModel(HookedRootModule):
    """A one-block model with a known state, from which the output is read.

    The state is a sum over orthogonal axes: the posterior weights of the major tasks, the current
    token, the posterior weight of a new task, and the log-predictive of the learner. `noise`
    replaces it with a random state.
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
        self.anchor = nn.Parameter(torch.zeros(1))  # The model's device is that of a parameter.
        self.setup()
        self.eval()

    def forward(self, tokens, **_):
        state = self.blocks[0].hook_resid_post(self.state(tokens))
        p = self.family.with_major_tasks().parameters.to(state)
        retrieval = (state @ self.task.to(state).T) @ p
        new_weight = state @ self.new.to(state).T
        learner = new_weight * (state @ self.learner.to(state).T).softmax(-1)
        return softly_positive(retrieval + learner).log()

    def state(self, tokens):
        if self.noise:
            generator = torch.Generator().manual_seed(int(tokens.sum()))
            return torch.randn(*tokens.shape, self.cfg.d_model, generator=generator)
        posterior = bayes.extrapolation(self.family, tokens, minor_mass=self.minor_mass).posterior
        major_weights, new_weight = posterior.float().split([self.family.majors, 1], -1)
        log_predictive = bayes.learner(self.family, tokens).predictive.float().log()
        learner = new_weight * self.new + log_predictive @ self.learner
        retrieval = major_weights @ self.task + self.token[tokens]
        return retrieval + (learner if self.minor_mass else 0 * learner)


class LogitModel(PlantedModel):
    """A planted model of retrieval whose logits, not probabilities, are linear in the state."""

    def forward(self, tokens, **_):
        state = self.blocks[0].hook_resid_post(self.state(tokens))
        logits = self.family.with_major_tasks().parameters.log().to(state)
        return (state @ self.task.to(state).T) @ logits


class TokenDependentModel(PlantedModel):
    """A planted model whose task axes are permuted by the current token."""

    def forward(self, tokens, **_):
        state = self.blocks[0].hook_resid_post(self.state(tokens))
        weights = torch.einsum("npd,npkd->npk", state, self.task_axes(tokens))
        p = self.family.with_major_tasks().parameters.float()
        return (weights @ p).clamp(min=1e-6).log()

    def state(self, tokens):
        posterior = bayes.retrieval(self.family, tokens).posterior.float()
        return torch.einsum("npk,npkd->npd", posterior, self.task_axes(tokens)) + self.token[tokens]

    def task_axes(self, tokens):
        k = self.family.majors
        return torch.stack([self.task.roll(shift, 0) for shift in range(k)])[tokens % k]


class LabelModel(PlantedModel):
    """A planted model whose state holds the true task from the first token on.

    It reads the whole sequence, whose posterior is certain at the end.
    """

    def state(self, tokens):
        posterior = bayes.retrieval(self.family, tokens).posterior.float()
        return posterior[:, -1:] @ self.task + self.token[tokens]


class TokenModel(PlantedModel):
    """A planted model whose state holds the current token only."""

    def state(self, tokens):
        return self.token[tokens]
