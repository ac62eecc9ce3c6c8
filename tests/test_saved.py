"""Saved files load with their content or raise a one-line error."""

import importlib.metadata
import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tvlens as tv
from tvlens import TvlensError
from tvlens.activations import Activations
from tvlens.matrices import MatrixReport, TaskMatrices, TaskMatrix
from tvlens.saved import write_tensors
from tvlens.vectors import TaskVector, VectorReport

pytestmark = pytest.mark.no_arithmetic

META = {"task": "antonym", "mode": "add", "examples": [["hot", "cold"]], "seed": 3}


@pytest.fixture
def vector(tmp_path):
    vector = TaskVector(torch.randn(3, 8), "resid_post", META)
    vector.save(tmp_path / "v.safetensors")
    return vector, tmp_path / "v.safetensors"


def test_flipped_bits_of_a_vector_are_refused_or_harmless(vector):
    saved, path = vector
    content, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(200):
        byte, bit = rng.randrange(len(content)), rng.randrange(8)
        flipped = bytearray(content)
        flipped[byte] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            loaded = TaskVector.load(path)
        except TvlensError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:  # such as in the padding of the header
            assert torch.equal(loaded.values, saved.values)
            assert (loaded.site, loaded.meta) == (saved.site, saved.meta)
    assert refused > 180


def test_load_accepts_files_without_a_checksum(vector):
    saved, path = vector
    header = {"tvlens": json.dumps({"site": saved.site, "meta": saved.meta})}
    save_file({"values": saved.values}, path, metadata=header)
    loaded = TaskVector.load(path)
    assert torch.equal(loaded.values, saved.values) and loaded.meta == saved.meta
    matrix = TaskMatrix(torch.eye(3).double(), torch.zeros(3).double(), layer=0, target=1)
    plain = [{"ridge": 0.0, "layer": 0, "target": 1, "rank": None, "meta": {}}]
    header = {"tvlens.TaskMatrices": json.dumps(plain)}
    save_file({"0.weight": matrix.weight, "0.bias": matrix.bias}, path, metadata=header)
    assert torch.equal(TaskMatrices.load(path)[0].weight, matrix.weight)


def test_save_writes_equal_files_for_equal_vectors(vector, tmp_path):
    saved, path = vector
    saved.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vector_refuses_values_that_are_not_finite(vector, value):
    saved, path = vector
    values = saved.values.clone()
    values[1, 2] = value
    with pytest.raises(TvlensError, match=r"1 of 24 numbers.*NaN or infinite, first at layer 1"):
        TaskVector(values)
    header = {"tvlens": json.dumps({"site": saved.site, "meta": saved.meta})}
    save_file({"values": values}, path, metadata=header)
    with pytest.raises(TvlensError, match="NaN or infinite"):
        TaskVector.load(path)


ONES = torch.ones(3, 8)
VECTOR = {"site": "resid_post", "meta": {}}
WRONG = [
    (TaskVector, "tvlens", {"values": ONES}, 3),
    (TaskVector, "tvlens", {"values": ONES}, None),
    (TaskVector, "tvlens", {"values": ONES}, []),
    (TaskVector, "tvlens", {"values": ONES}, {"site": 3, "meta": {}}),
    (TaskVector, "tvlens", {"values": ONES}, {"site": "z", "meta": []}),
    (TaskVector, "tvlens", {"values": ONES}, VECTOR | {"meta": {"examples": 3}}),
    (TaskVector, "tvlens", {"values": ONES}, VECTOR | {"meta": {"examples": [["a"]]}}),
    (TaskVector, "tvlens", {"values": ONES}, VECTOR | {"meta": {"mode": 1}}),
    (TaskVector, "tvlens", {"values": ONES}, VECTOR | {"meta": {"task": None}}),
    (TaskVector, "tvlens", {"values": ONES[0]}, VECTOR),
    (TaskVector, "tvlens", {"values": ONES.long()}, VECTOR),
    (TaskVector, "tvlens", {"other": ONES}, VECTOR),
    (TaskVector, "tvlens", {"values": ONES, "other": ONES + 1}, VECTOR),
    (TaskVector, "tvlens.patch", {"values": ONES}, VECTOR),
    (TaskMatrix, "tvlens.TaskMatrix", {"weight": ONES}, {}),
    (TaskMatrix, "tvlens.TaskMatrix", {"weight": ONES, "bias": torch.ones(9)}, {}),
    (TaskMatrix, "tvlens.TaskMatrix", {"weight": ONES, "bias": torch.ones(8)}, {"rank": "3"}),
    (TaskMatrix, "tvlens.TaskMatrix", {"weight": ONES, "bias": torch.ones(8)}, {"meta": 3}),
    (TaskMatrix, "tvlens.TaskMatrix", {"weight": ONES, "bias": torch.ones(8)}, {"new": 3}),
    (TaskMatrices, "tvlens.TaskMatrices", {"0.weight": ONES}, {"matrices": 3}),
    (TaskMatrices, "tvlens.TaskMatrices", {"weight": ONES}, {"matrices": [{}]}),
    (TaskMatrices, "tvlens.TaskMatrices", {"7.weight": ONES}, {"matrices": [{}]}),
    (MatrixReport, "tvlens.MatrixReport", {"labels": ONES}, {"names": 3}),
    (tv.Subspace, "tvlens.Subspace", {"basis": torch.ones(8)}, {}),
    (tv.Subspace, "tvlens.Subspace", {"basis": ONES}, {}),
    (tv.Subspace, "tvlens.Subspace", {"basis": torch.eye(3) * float("nan")}, {}),
    (tv.Subspace, "tvlens.Subspace", {"basis": torch.eye(3), "center": torch.ones(2)}, {}),
    (tv.PatchResult, "tvlens.patch", {"values": ONES}, {"axes": 3}),
    (tv.PatchResult, "tvlens.patch", {"values": ONES, "baseline": torch.ones(8)}, {"axes": [3]}),
    (tv.bayes.Prediction, "tvlens.Prediction", {"posterior": ONES}, {}),
]


@pytest.mark.parametrize(("kind", "header", "tensors", "content"), WRONG)
def test_load_refuses_invalid_headers(kind, header, tensors, content, tmp_path):
    path = tmp_path / "file.safetensors"
    save_file(tensors, path, metadata={header: json.dumps(content)})
    with pytest.raises(TvlensError, match=r"file\.safetensors holds no") as caught:
        kind.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{", '{"site": "z", "site": 3}', "NaN"])
def test_load_refuses_headers_that_are_not_json(text, tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"values": ONES}, path, metadata={"tvlens": text})
    with pytest.raises(TvlensError, match="holds no TaskVector"):
        TaskVector.load(path)


def test_load_names_the_kind_of_another_result(tmp_path):
    tv.Subspace.random(8, 2).save(tmp_path / "s.safetensors")
    with pytest.raises(TvlensError, match=r"holds no TaskMatrix .it holds Subspace"):
        TaskMatrix.load(tmp_path / "s.safetensors")
    with pytest.raises(TvlensError, match="there is no such file"):
        TaskMatrix.load(tmp_path / "t.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TvlensError, match="holds no TaskMatrix"):
        TaskMatrix.load(tmp_path / "folder")


def test_load_refuses_a_changed_report(tmp_path):
    condition = dict(name="vector", first=0.8, first_interval=(0.7, 0.9), full=0.5, count=40)
    condition |= dict(full_interval=(0.4, 0.6))
    plain = dict(task="antonym", layer=1, by_layer=[0.1, 0.8], meta={}, conditions={})
    plain |= dict(by_layer_interval=[[0, 0.2], [0.7, 0.9]])
    plain["conditions"]["vector"] = condition
    report, path = VectorReport.from_json(plain), tmp_path / "r.safetensors"
    report.save(path)
    assert VectorReport.load(path).to_json() == report.to_json()
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6", 1))
    with pytest.raises(TvlensError, match="it is damaged"):
        VectorReport.load(path)
    for conditions in (3, {"vector": 3}, {"vector": condition | {"count": "40"}}):
        header = {k: v for k, v in plain.items() if not k.startswith("by_layer")}
        header = {"tvlens.VectorReport": json.dumps(header | {"conditions": conditions})}
        tensors = dict(by_layer=report.by_layer, by_layer_interval=report.by_layer_interval)
        save_file(tensors, path, metadata=header)
        with pytest.raises(TvlensError, match="holds no VectorReport"):
            VectorReport.load(path)


def test_load_names_the_version_of_reports_saved_as_json(tmp_path):
    path = tmp_path / "report.json"
    path.write_text('{"task": "antonym"}')
    with pytest.raises(TvlensError, match=r"JSON, as tvlens before 0\.2 wrote it") as caught:
        VectorReport.load(path)
    assert "\n" not in str(caught.value)


def test_load_names_the_version_of_an_unknown_field(tmp_path):
    path = tmp_path / "s.safetensors"
    plain = json.dumps({"tvlens_version": "0.9", "sign": 1})
    save_file({"basis": torch.eye(3)}, path, metadata={"tvlens.Subspace": plain})
    with pytest.raises(TvlensError, match=r"no field 'sign'.*tvlens 0\.9 wrote it"):
        tv.Subspace.load(path)


def test_load_refuses_damaged_activations(tmp_path):
    import tiny

    path = tmp_path / "states.safetensors"
    tv.collect(tiny.model("gpt2"), tiny.ragged("text"), file=path, progress=False)
    with safe_open(path, framework="pt") as file:
        assert len(file.metadata()["tvlens.checksum"]) == 32
    assert "resid_post.0" in Activations.load(path)
    content = path.read_bytes()
    for byte in (20, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[byte] ^= 1
        path.write_bytes(changed)
        with pytest.raises(TvlensError, match="holds no activations"):
            Activations.load(path)
    for tensors in (
        {"lengths": torch.ones(3)},
        {"resid_post.0": ONES},
        {"lengths": torch.ones(3).long(), "resid_post.0": torch.ones(2, 3, 4)},
        {"lengths": torch.ones(3).long(), "nonsense": torch.ones(3, 3, 4)},
    ):
        save_file(tensors, path)
        with pytest.raises(TvlensError, match="holds no activations"):
            Activations.load(path)
    save_file({"lengths": torch.ones(3).long(), "resid_post.0": torch.ones(3, 3, 4)}, path)
    assert list(Activations.load(path)) == ["resid_post.0"]  # of an earlier version


def test_restore_refuses_damaged_checkpoints(tmp_path):
    from tvlens.training import checkpoint

    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save(tmp_path, 1, model, optimizer)
    checkpoint.restore(tmp_path, 1, model, optimizer)
    path = checkpoint.checkpoint_path(tmp_path, 1)
    save_file(load_file(path), path)  # as an earlier version wrote it
    checkpoint.restore(tmp_path, 1, model, optimizer)
    checkpoint.save(tmp_path, 1, model, optimizer)
    content = bytearray(path.read_bytes())
    content[-2] ^= 4
    path.write_bytes(content)
    with pytest.raises(TvlensError, match=r"step-00000001\.safetensors holds no checkpoint"):
        checkpoint.restore(tmp_path, 1, model, optimizer)
    with pytest.raises(TvlensError, match="holds no checkpoint"):
        checkpoint.weights(tmp_path, 1)
    tv.Subspace.random(8, 2).save(path)
    with pytest.raises(TvlensError, match=r"holds no checkpoint .it holds Subspace"):
        checkpoint.weights(tmp_path, 1)
    save_file({"other": ONES}, path)
    with pytest.raises(TvlensError, match="no weights in it"):
        checkpoint.weights(tmp_path, 1)


def test_result_saves_and_loads_without_an_installed_distribution(tmp_path, monkeypatch):
    def raise_not_found(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", raise_not_found)
    tv.Subspace.random(8, 2).save(tmp_path / "s.safetensors")
    assert tv.Subspace.load(tmp_path / "s.safetensors").basis.shape == (8, 2)


def test_write_tensors_removes_temporary_files_of_safetensors(tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        (path.parent / ".tmpA1b2C3").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    assert not list(tmp_path.iterdir())


def test_write_tensors_gives_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
