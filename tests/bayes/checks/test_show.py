from dataclasses import fields

import pytest
import torch
from planted import SMALL_CHECKS, untrained_model

from tvlens import TvlensError, bayes


@pytest.mark.parametrize("name", ["Markov", "LinearRegression", "Dyck"])
@pytest.mark.parametrize("check", SMALL_CHECKS)
def test_every_check_of_every_family_is_saved_and_plotted(name, check, tmp_path):
    family = getattr(bayes, name)(seed=3)
    model, run_check = untrained_model(family), getattr(bayes, check)
    if name == "Dyck" and check == "injection":
        with pytest.raises(TvlensError, match="that the model allows"):
            run_check(model, family, **SMALL_CHECKS[check])
        return
    result = run_check(model, family, **SMALL_CHECKS[check])
    assert len(result.to_dataframe()) and "<figure" in result._repr_html_()
    result.save(tmp_path / "result.safetensors")
    loaded = type(result).load(tmp_path / "result.safetensors")
    for field in fields(result):
        value = getattr(result, field.name)
        is_equal = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
        assert is_equal(getattr(loaded, field.name), value), field.name
