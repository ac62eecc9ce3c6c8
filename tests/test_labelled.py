import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tvlens as tv
from tvlens import Labelled, TvlensError
from tvlens.labelled import PRESETS
from tvlens.models import pixels


@pytest.fixture(params=Labelled.names())
def packed(request):
    return Labelled.load(request.param)


def content(one):
    return one.lower() if isinstance(one, str) else one.tobytes()


def test_ten_packed_sets_of_real_data():
    assert len(Labelled.names("text")) >= 8
    assert {"digits", "emoji-noto", "emoji-twitter"} == set(Labelled.names("picture"))


def test_a_packed_set_is_whole(packed):
    assert len(packed) >= 300
    assert 3 <= len(packed.classes) <= 30
    counts = np.bincount(packed.labels, minlength=len(packed.classes))
    assert counts.min() >= 20
    assert len({content(one) for one in packed.inputs}) == len(packed)
    assert packed.about["licence"] and packed.about["source"] and packed.about["description"]
    assert list(packed.to_dataframe().columns) == ["input", "label", "group"]


@pytest.mark.parametrize("seed", [0, 7])
def test_splits_leak_nothing(packed, seed):
    parts = packed.split(seed)
    assert sum(map(len, parts)) == len(packed)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        a, b = parts[one], parts[other]
        assert not {content(x) for x in a.inputs} & {content(x) for x in b.inputs}
        assert not set(a.groups) & set(b.groups)
    for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        assert set(part.labels) == set(range(len(packed.classes)))
        assert abs(len(part) / len(packed) - share) < 0.05
    assert packed.split(seed)[0].inputs[:5] == parts[0].inputs[:5] or packed.kind == "picture"
    assert packed.split(seed + 1)[0].groups != parts[0].groups


def test_two_artists_are_split_alike():
    noto, twitter = (Labelled.load(f"emoji-{artist}").split(3) for artist in ("noto", "twitter"))
    for ours, theirs in zip(noto, twitter, strict=True):
        assert ours.groups == theirs.groups and ours.labels == theirs.labels
    same = [np.array_equal(a, b) for a, b in zip(noto[0].inputs, twitter[0].inputs, strict=True)]
    assert not any(same)


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    ours = Labelled.load("digits")
    order = [int(group) for group in ours.groups]
    truth = load_digits()
    assert [ours.classes[label] for label in ours.labels] == [str(truth.target[i]) for i in order]
    restored = np.stack([picture[..., 0] for picture in ours.inputs]) / 255 * 16
    assert np.abs(restored - truth.images[order]).max() < 0.1


def test_the_same_text_stands_in_one_part():
    """Without groups of their own; rows that differ are split as ever."""
    rows = [f"row {i}" for i in range(40)]
    labels = [i % 2 for i in range(40)]
    twice = ["Twice", "twice", " TWICE ", "ca\u0301fe", "c\u00e1fe"]
    plain = Labelled("made", rows, labels, ["a", "b"])
    assert plain.groups == tuple(str(i) for i in range(40))
    for seed in range(20):
        parts = Labelled("made", rows + twice, labels + [0] * 5, ["a", "b"]).split(seed)
        assert sum(len(part) for part in parts) == 45
        for some in (twice[:3], twice[3:]):
            assert sum(not set(some).isdisjoint(part.inputs) for part in parts) == 1
    dark = np.zeros((2, 2, 3), np.uint8)
    drawn = Labelled("made", [dark, dark + 1, dark], [0, 1, 0], ["a", "b"], kind="picture")
    assert drawn.groups == ("0", "1", "0")


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(0, 12), min_size=12, max_size=60),
    seed=st.integers(0, 99),
)
def test_groups_never_part(groups, seed):
    labels = [group % 2 for group in groups]
    rows = [f"row {i}" for i in range(len(groups))]
    labelled = Labelled("made", rows, labels, ["a", "b"], [str(g) for g in groups])
    try:
        parts = labelled.split(seed)
    except TvlensError:
        assert len(set(groups)) < 10
        return
    assert sorted(x for part in parts for x in part.inputs) == sorted(rows)
    assert sum(len(set(part.groups)) for part in parts) == len(set(groups))


def test_from_a_dataset():
    features = datasets.Features(
        {"said": datasets.Value("string"), "kind": datasets.ClassLabel(names=["x", "y"])}
    )
    rows = {"said": ["one", "two", "three"], "kind": [0, 1, 1]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    named = Labelled.from_dataset(dataset, input="said", label="kind", name="mine")
    assert (named.classes, named.labels, named.name) == (("x", "y"), (0, 1, 1), "mine")
    strings = datasets.DatasetDict(test=datasets.Dataset.from_dict(rows | {"kind": list("bab")}))
    plain = Labelled.from_dataset(strings, input="said", label="kind", split="test", limit=2)
    assert (plain.classes, plain.labels) == (("a", "b"), (1, 0))
    pairs = datasets.Dataset.from_dict(rows | {"more": ["1", "2", "3"]})
    both = Labelled.from_dataset(pairs, input="said", label="kind", second="more")
    assert both.inputs == ("one 1", "two 2", "three 3")


def test_bad_sets():
    with pytest.raises(TvlensError, match="unknown labelled set 'digit': did you mean 'digits'"):
        Labelled.load("digit")
    with pytest.raises(TvlensError, match="row 1 has label 2, but classes are 0 to 1"):
        Labelled("made", ["a", "b"], [0, 2], ["x", "y"])
    with pytest.raises(TvlensError, match="row 1 is ' ', not a text"):
        Labelled("made", ["a", " "], [0, 1], ["x", "y"])
    with pytest.raises(TvlensError, match="has 2 inputs, 1 labels"):
        Labelled("made", ["a", "b"], [0], ["x", "y"])
    with pytest.raises(TvlensError, match="two classes or more"):
        Labelled("made", ["a"], [0], ["x"])
    with pytest.raises(TvlensError, match="leave nothing"):
        Labelled.load("digits").split(train=0.8, validation=0.2)
    with pytest.raises(TvlensError, match="train/validation/test would be"):
        Labelled("made", ["a", "b"], [0, 1], ["x", "y"]).split()
    rows = datasets.Dataset.from_dict({"text": ["a"], "label": [1]})
    with pytest.raises(TvlensError, match="unknown input column of dataset 'txt'"):
        Labelled.from_dataset(rows, input="txt", label="label")
    with pytest.raises(TvlensError, match="cannot read 'mnist'"):
        Labelled.from_dataset("mnist")
    assert len(PRESETS) == 16


def test_pixels_are_normalised_and_of_one_size():
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (16, 16, 16)]
    got = pixels(pictures, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    wanted = (np.stack(pictures).transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float32))
    mixed = pixels([pictures[0], np.full((8, 12, 3), 255, np.uint8)], size=32)
    assert mixed.shape == (2, 3, 32, 32)
    assert torch.allclose(mixed[1], mixed[1, :, :1, :1].expand(3, 32, 32), atol=1e-5)
    with pytest.raises(TvlensError, match="picture 0 is float64"):
        pixels([np.zeros((4, 4, 3))])
    with pytest.raises(TvlensError, match="no pictures"):
        pixels([])
    assert tv.Labelled is Labelled
