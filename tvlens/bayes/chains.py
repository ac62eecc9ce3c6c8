"""The four algorithms that transformers mix on chains (Park et al. 2024, arXiv 2412.01003).

Retrieval weighs the known chains, inference counts in the context; each looks at single tokens
(unigrams) or at transitions (bigrams). To look at single tokens only is to take a chain for a die
with its stationary distribution.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .dice import Dice
from .markov import Markov
from .prediction import Prediction
from .references import learner, retrieval
from .sequences import Data


def unigram_retrieval(family: Markov, data: Data) -> Prediction:
    """Known chains weighted by how their stationary distributions fit the tokens; predicts the
    weighted stationary distribution, whatever the current state.

    `family.mixture(prediction.posterior, data)` gives the weighted transitions instead.
    """
    stationary = stationary_distribution(family.transitions)
    dice = Dice.from_probabilities(stationary, prior=family.prior, majors=family.majors)
    return replace(retrieval(dice, data), reference="unigram retrieval")


def bigram_retrieval(family: Markov, data: Data) -> Prediction:
    """Known chains weighted by how their transitions fit: the Bayes-optimal `retrieval`."""
    return replace(retrieval(family, data), reference="bigram retrieval")


def unigram_inference(family: Markov, data: Data) -> Prediction:
    """Smoothed frequency of the tokens in the context, whatever the current state."""
    dice = Dice(tasks=1, faces=family.states, alpha=family.alpha)
    return replace(learner(dice, data), reference="unigram inference")


def bigram_inference(family: Markov, data: Data) -> Prediction:
    """Smoothed frequency of what followed the current state: the Dirichlet `learner`."""
    return replace(learner(family, data), reference="bigram inference")


def stationary_distribution(
    transitions: Float[Tensor, "*batch states states"],
) -> Float[Tensor, "*batch states"]:
    """The distribution over states that a chain keeps.

    Raises:
        TvlensError: a chain with several such distributions (it falls apart into classes).
    """
    states = transitions.shape[-1]
    eye = torch.eye(states, dtype=transitions.dtype, device=transitions.device)
    # pi T = pi and sum(pi) = 1; one of the first equations follows from the others.
    system = (transitions - eye).transpose(-1, -2).clone()
    system[..., -1, :] = 1
    kept, info = torch.linalg.solve_ex(system, eye[-1].expand(*system.shape[:-1])[..., None])
    kept = kept[..., 0]
    if bool((info != 0).any()) or not bool((kept > -1e-9).all()):
        raise TvlensError("a chain has more than one stationary distribution")
    return kept.clamp(min=0) / kept.clamp(min=0).sum(-1, keepdim=True)
