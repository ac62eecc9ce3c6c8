"""`Claim`: the rule of verdicts, plain data, tables."""

import json
import math
from dataclasses import replace

import pytest

from tvlens import TvlensError
from tvlens.studies.claims import Claim, claims_table, read_claims, summarize_claims

pytestmark = pytest.mark.no_arithmetic

WORKS = Claim(
    id="works",
    statement="It works.",
    value=0.8,
    interval=(0.7, 0.9),
    threshold=0.5,
    nulls={"random": 0.1},
    where={"task": "antonym", "seed": 0},
)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "holds"),
        ({"threshold": None}, "holds"),
        ({"threshold": 0.75}, "undecided"),
        ({"nulls": {"random": 0.1, "wrong_task": 0.75}}, "undecided"),
        ({"threshold": 0.9}, "misses"),
        ({"threshold": 0.7}, "undecided"),
        ({"side": "below"}, "misses"),
        ({"side": "below", "threshold": 0.95, "nulls": {}}, "holds"),
        ({"side": "below", "threshold": 0.95, "nulls": {"random": 0.85}}, "undecided"),
        ({"interval": None}, "undecided"),
        ({"interval": (0.8, 0.8)}, "holds"),
        ({"interval": (math.nan, math.nan)}, "undecided"),
        ({"nulls": {"random": math.nan}}, "undecided"),
    ],
)
def test_verdict_compares_the_interval_with_threshold_and_nulls(changes, verdict):
    assert replace(WORKS, **changes).verdict == verdict


def test_claim_needs_a_threshold_or_a_null():
    with pytest.raises(ValueError, match="neither a threshold nor a null"):
        replace(WORKS, threshold=None, nulls={})
    with pytest.raises(ValueError, match="'above' or 'below'"):
        replace(WORKS, side="over")


@pytest.mark.parametrize("changes", [{}, {"interval": None, "threshold": None}])
def test_claim_survives_json(changes):
    claim = replace(WORKS, **changes)
    plain = json.loads(json.dumps(claim.to_dict(), allow_nan=False))
    assert plain["verdict"] == claim.verdict and Claim.from_dict(plain) == claim


def test_undefined_numbers_are_null_in_json():
    plain = replace(WORKS, value=math.nan, nulls={"random": math.nan}).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["value"] is None
    assert math.isnan(Claim.from_dict(plain).nulls["random"])


def test_read_claims_names_the_version_that_wrote_another_form(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"tvlens": "0.2.0", "claims": [WORKS.to_dict()]}))
    assert read_claims(path) == [WORKS]
    old = {"claim": "It works.", "found": "on 2 of 3", "verdict": "mixed"}
    path.write_text(json.dumps({"claims": [old]}))
    with pytest.raises(TvlensError, match=r"written by tvlens 0\.1:"):
        read_claims(path)
    path.write_text(json.dumps({"settings": {}}))
    with pytest.raises(TvlensError, match="no claims"):
        read_claims(path)
    with pytest.raises(TvlensError, match="no such file"):
        read_claims(tmp_path / "none.json")


def test_summary_over_seeds_counts_what_holds():
    seeds = [
        replace(WORKS, value=v, interval=(v - 0.1, v + 0.1), where=WORKS.where | {"seed": i})
        for i, v in enumerate((0.8, 0.7, 0.45))
    ]
    (row,) = summarize_claims(seeds)
    assert (row["value"], row["low"], row["high"]) == (0.7, 0.45, 0.8)
    assert row["where"] == "antonym" and row["verdict"] == "2 of 3 hold"
    (single,) = summarize_claims([WORKS])
    assert (single["low"], single["high"]) == (0.7, 0.9) and single["verdict"] == "holds"


def test_table_shows_every_claim():
    html = claims_table([WORKS, replace(WORKS, where={"task": "plural"})])._repr_html_()
    assert html.count("It works.") == 2 and "antonym, seed 0" in html and "above 0.5" in html
