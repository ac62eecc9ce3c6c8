import warnings

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tvlens as tv
from tvlens import LabelledDataset, TvlensError, deprecation
from tvlens.labelled import HUB_DATASETS
from tvlens.models import preprocess_images

pytestmark = pytest.mark.no_arithmetic


@pytest.fixture(params=LabelledDataset.names())
def dataset(request):
    return LabelledDataset.load(request.param)


def normalized(example):
    return example.lower() if isinstance(example, str) else example.tobytes()


def test_names_lists_packaged_datasets():
    assert len(LabelledDataset.names("text")) >= 8
    assert {"digits", "emoji-noto", "emoji-twitter"} == set(LabelledDataset.names("image"))


def test_load_gives_complete_packaged_dataset(dataset):
    assert len(dataset) >= 300
    assert 3 <= len(dataset.classes) <= 30
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    assert counts.min() >= 20
    assert len({normalized(x) for x in dataset.inputs}) == len(dataset)
    assert all(dataset.metadata[key] for key in ("licence", "source", "description"))
    assert list(dataset.to_dataframe().columns) == ["input", "label", "group"]


@pytest.mark.parametrize("seed", [0, 7])
def test_split_parts_are_disjoint_and_stratified(dataset, seed):
    parts = dataset.split(seed)
    assert sum(map(len, parts)) == len(dataset)
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        a, b = parts[first], parts[second]
        assert not {normalized(x) for x in a.inputs} & {normalized(x) for x in b.inputs}
        assert not set(a.groups) & set(b.groups)
    for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        assert set(part.labels) == set(range(len(dataset.classes)))
        assert abs(len(part) / len(dataset) - share) < 0.05
    assert dataset.split(seed)[0].inputs[:5] == parts[0].inputs[:5] or dataset.kind == "image"
    assert dataset.split(seed + 1)[0].groups != parts[0].groups


def test_split_is_the_same_for_datasets_with_the_same_groups():
    noto, twitter = (
        LabelledDataset.load(f"emoji-{artist}").split(3) for artist in ("noto", "twitter")
    )
    for ours, theirs in zip(noto, twitter, strict=True):
        assert ours.groups == theirs.groups and ours.labels == theirs.labels
    same = [np.array_equal(a, b) for a, b in zip(noto[0].inputs, twitter[0].inputs, strict=True)]
    assert not any(same)


def test_digits_match_scikit_learn():
    from sklearn.datasets import load_digits

    ours = LabelledDataset.load("digits")
    order = [int(group) for group in ours.groups]
    truth = load_digits()
    assert [ours.classes[label] for label in ours.labels] == [str(truth.target[i]) for i in order]
    restored = np.stack([image[..., 0] for image in ours.inputs]) / 255 * 16
    assert np.abs(restored - truth.images[order]).max() < 0.1


def test_split_keeps_equal_inputs_in_one_part():
    """Inputs are compared up to case, white space and Unicode form."""
    rows = [f"row {i}" for i in range(40)]
    labels = [i % 2 for i in range(40)]
    twice = ["Twice", "twice", " TWICE ", "ca\u0301fe", "c\u00e1fe"]
    plain = LabelledDataset("made", rows, labels, ["a", "b"])
    assert plain.groups == tuple(str(i) for i in range(40))
    for seed in range(20):
        parts = LabelledDataset("made", rows + twice, labels + [0] * 5, ["a", "b"]).split(seed)
        assert sum(len(part) for part in parts) == 45
        for some in (twice[:3], twice[3:]):
            assert sum(not set(some).isdisjoint(part.inputs) for part in parts) == 1
    dark = np.zeros((2, 2, 3), np.uint8)
    inputs = LabelledDataset("made", [dark, dark + 1, dark], [0, 1, 0], ["a", "b"], kind="image")
    assert inputs.groups == ("0", "1", "0")


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(0, 12), min_size=12, max_size=60),
    seed=st.integers(0, 99),
)
def test_split_never_divides_groups(groups, seed):
    labels = [group % 2 for group in groups]
    rows = [f"row {i}" for i in range(len(groups))]
    labelled = LabelledDataset("made", rows, labels, ["a", "b"], [str(g) for g in groups])
    try:
        parts = labelled.split(seed)
    except TvlensError:
        assert len(set(groups)) < 10
        return
    assert sorted(x for part in parts for x in part.inputs) == sorted(rows)
    assert sum(len(set(part.groups)) for part in parts) == len(set(groups))


def test_from_dataset_reads_columns_of_datasets_objects():
    features = datasets.Features(
        {"said": datasets.Value("string"), "kind": datasets.ClassLabel(names=["x", "y"])}
    )
    rows = {"said": ["one", "two", "three"], "kind": [0, 1, 1]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    named = LabelledDataset.from_dataset(dataset, input="said", label="kind", name="mine")
    assert (named.classes, named.labels, named.name) == (("x", "y"), (0, 1, 1), "mine")
    strings = datasets.DatasetDict(test=datasets.Dataset.from_dict(rows | {"kind": list("bab")}))
    plain = LabelledDataset.from_dataset(strings, input="said", label="kind", split="test", limit=2)
    assert (plain.classes, plain.labels) == (("a", "b"), (1, 0))
    pairs = datasets.Dataset.from_dict(rows | {"more": ["1", "2", "3"]})
    both = LabelledDataset.from_dataset(pairs, input="said", label="kind", second="more")
    assert both.inputs == ("one 1", "two 2", "three 3")


def test_bad_input_raises_one_line_errors():
    with pytest.raises(TvlensError, match="unknown labelled dataset 'digit': did you mean"):
        LabelledDataset.load("digit")
    with pytest.raises(TvlensError, match="row 1 has label 2, but classes are 0 to 1"):
        LabelledDataset("made", ["a", "b"], [0, 2], ["x", "y"])
    with pytest.raises(TvlensError, match="row 1 is ' ', not a text"):
        LabelledDataset("made", ["a", " "], [0, 1], ["x", "y"])
    with pytest.raises(TvlensError, match="has 2 inputs, 1 labels"):
        LabelledDataset("made", ["a", "b"], [0], ["x", "y"])
    with pytest.raises(TvlensError, match="two classes or more"):
        LabelledDataset("made", ["a"], [0], ["x"])
    with pytest.raises(TvlensError, match="leave nothing"):
        LabelledDataset.load("digits").split(train=0.8, validation=0.2)
    with pytest.raises(TvlensError, match="train/validation/test would be"):
        LabelledDataset("made", ["a", "b"], [0, 1], ["x", "y"]).split()
    rows = datasets.Dataset.from_dict({"text": ["a"], "label": [1]})
    with pytest.raises(TvlensError, match="unknown input column of dataset 'txt'"):
        LabelledDataset.from_dataset(rows, input="txt", label="label")
    with pytest.raises(TvlensError, match="cannot read 'mnist'"):
        LabelledDataset.from_dataset("mnist")
    assert len(HUB_DATASETS) == 16


def test_preprocess_images_normalizes_and_resizes():
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (16, 16, 16)]
    pixels = preprocess_images(images, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    wanted = (np.stack(images).transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(pixels, torch.tensor(wanted, dtype=torch.float32))
    mixed = preprocess_images([images[0], np.full((8, 12, 3), 255, np.uint8)], size=32)
    assert mixed.shape == (2, 3, 32, 32)
    assert torch.allclose(mixed[1], mixed[1, :, :1, :1].expand(3, 32, 32), atol=1e-5)
    with pytest.raises(TvlensError, match="image 0 is float64"):
        preprocess_images([np.zeros((4, 4, 3))])
    with pytest.raises(TvlensError, match="no images"):
        preprocess_images([])


def test_deprecated_name_warns_once_and_names_the_new_one(monkeypatch):
    monkeypatch.setattr(deprecation, "_warned", set())
    with pytest.warns(DeprecationWarning, match=r"use tvlens\.LabelledDataset"):
        assert tv.Labelled is LabelledDataset
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tv.Labelled is LabelledDataset
