"""Reports: accuracies with intervals, attributes, differences."""

import pytest
import torch

from tvlens import TvlensError
from tvlens.matrices import MatrixReport, pool_reports
from tvlens.stats import share_interval


def make_report(is_right, other=None):
    """Make a report of a task matrix, and of another method, from their outcomes."""
    rows = [is_right] if other is None else [is_right, other]
    seeds = torch.zeros(len(is_right), dtype=torch.int64)
    return MatrixReport(
        methods=("task_matrix", "permuted")[: len(rows)],
        predictions=1 - torch.stack(rows, dim=1),
        labels=torch.zeros(is_right.shape[1], dtype=torch.int64),
        layers=(0,),
        layer=seeds,
        ridge=seeds.double(),
        rank=seeds,
        by_layer=seeds[:, None].double(),
        by_layer_r2=seeds[:, None].double(),
        selection="validation",
        oracle_accuracy=seeds.double(),
    )


@pytest.fixture
def outcomes():
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(1, 60, generator=generator) < p).long() for p in (0.9, 0.5)]


def test_interval_is_the_wilson_interval_and_spans_seeds(outcomes):
    one, other = outcomes
    assert make_report(one).interval == share_interval(one[0].numpy())
    perfect = make_report(torch.ones(3, 60, dtype=torch.int64)).interval
    assert perfect == share_interval([1] * 60) and perfect[0] < 0.95
    low, high = make_report(torch.cat([one, other])).interval
    assert low <= float(other.double().mean()) and float(one.double().mean()) <= high


def test_accuracy_interval_and_null_are_attributes(outcomes):
    one, other = outcomes
    report = make_report(one, other)
    assert report.accuracy == report.accuracies["task_matrix"] == float(one.double().mean())
    assert report.null == report.accuracies["permuted"] == float(other.double().mean())
    assert report.interval == report.intervals["task_matrix"]
    assert make_report(one).null is None


def test_difference_is_paired_by_example(outcomes):
    one, other = outcomes
    difference = make_report(one, other).difference("task_matrix", "permuted")
    assert difference.value == pytest.approx(float((one - other).double().mean()))
    assert difference.low < difference.value < difference.high and difference.verdict == "wins"
    tie = make_report(one, one).difference("task_matrix", "permuted")
    assert tie.interval == (0, 0) and tie.verdict == "ties"
    with pytest.raises(TvlensError, match="unknown method 'probe'"):
        make_report(one).agreement("probe")


def test_pool_reports_stacks_seeds_of_one_test_part(outcomes):
    one, other = outcomes
    pooled = pool_reports([make_report(one), make_report(other)])
    assert [row["task_matrix"] for row in pooled.accuracies_by_seed] == pytest.approx(
        [float(one.double().mean()), float(other.double().mean())]
    )
    with pytest.raises(TvlensError, match="different test parts"):
        pool_reports([make_report(one), make_report(other[:, :50])])
