"""The type checks that tests switch on."""

import checked
import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

pytestmark = pytest.mark.no_arithmetic

PAIR, TRIPLE = torch.ones(2), torch.ones(3)


def scale_by(factor):
    """A function that is defined anew at every call, as the import hook decorates it."""

    @jaxtyping.jaxtyped(typechecker=checked.check)
    def scale(x: Float[Tensor, " n"], like: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return factor(x)

    return scale


def test_every_definition_of_a_closure_runs_its_own_body():
    double, negate = scale_by(lambda x: 2 * x), scale_by(torch.neg)
    assert torch.equal(double(PAIR, like=PAIR), 2 * PAIR)
    assert torch.equal(negate(PAIR, PAIR), -PAIR)
    assert double.__name__ == "scale" and double.__code__ is not double.__wrapped__.__code__


def test_every_definition_of_a_closure_is_checked():
    for scale in (scale_by(torch.neg), scale_by(torch.neg)):
        for wrong in (TRIPLE, PAIR[None], None):
            with pytest.raises(jaxtyping.TypeCheckError, match=r"parameters of .*scale"):
                scale(PAIR, wrong)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"return value of .*scale"):
        scale_by(torch.sum)(PAIR, PAIR)


def test_closures_are_unchecked_where_checks_are_off(unchecked):
    assert torch.equal(scale_by(torch.neg)(PAIR, TRIPLE), -PAIR)
