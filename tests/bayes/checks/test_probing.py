import pytest
from planted import SMALL_CHECKS, untrained_model

from tvlens import TvlensError, bayes


@pytest.mark.parametrize("check", sorted({*SMALL_CHECKS, "learner_subspace"} - {"behaviour"}))
def test_checks_refuse_one_major_task_and_missing_layers(check, dice):
    run_check = getattr(bayes, check)
    with pytest.raises(TvlensError, match="one major task"):
        run_check(untrained_model(dice), bayes.Dice(tasks=1, faces=4))
    with pytest.raises(TvlensError, match="layer 7 does not exist"):
        run_check(untrained_model(dice), dice, layer=7)
