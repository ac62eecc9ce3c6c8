"""Files of a training run have checksums, by which damage is detected."""

import json

import pytest
import torch

from tvlens import TvlensError, deprecation, training
from tvlens.studies.claims import Claim, read_claims
from tvlens.studies.latent.trained_model import remove_damaged
from tvlens.training import TransformerConfig, load_run, train

CONFIG = TransformerConfig(context=8, vocab=5, layers=1, d_model=16, heads=2)


def sample(seed):
    return torch.randint(0, 5, (4, 9), generator=torch.Generator().manual_seed(seed))


def start_run(folder, steps=2):
    return train(CONFIG, sample, steps=steps, report_every=1, folder=folder, progress=False)


def flip_bits(path, load):
    """Load a file with each of its bits flipped; yield the result, or None where it is refused."""
    original = path.read_bytes()
    for i in range(8 * len(original)):
        content = bytearray(original)
        content[i // 8] ^= 1 << i % 8
        path.write_bytes(content)
        try:
            yield load()
        except TvlensError as error:
            assert len(str(error).splitlines()) == 1
            yield None
    path.write_bytes(original)


@pytest.mark.no_arithmetic
@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json"])
def test_flipped_bits_of_a_run_are_refused_or_harmless(name, tmp_path):
    run = start_run(tmp_path)
    metrics = run.metrics

    def load():
        loaded = load_run(tmp_path)
        return loaded.settings, loaded.metrics

    for result in flip_bits(tmp_path / name, load):
        assert result in (None, (run.settings, metrics))


@pytest.mark.no_arithmetic
def test_flipped_bits_of_a_report_are_refused_or_harmless(tmp_path):
    from tvlens.saved import with_checksum

    parts = dict(where={}, value=0.5, interval=(0.4, 0.6), side="above", nulls={"no effect": 0.0})
    claim = Claim(id="one", statement="It holds.", **parts)
    report = {"settings": {}, "claims": [claim.to_dict()]}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report, indent=1))
    (before,) = read_claims(path)  # as earlier versions wrote it
    path.write_text(json.dumps(with_checksum(report), indent=1))
    for result in flip_bits(path, lambda: read_claims(path)):
        assert result in (None, [before])


def test_load_run_reads_the_settings_of_earlier_versions(tmp_path):
    run = start_run(tmp_path)
    former = {"config": "shape", "report_every": "every"}
    settings = {former.get(key, key): value for key, value in run.settings.items()}
    (tmp_path / "run.json").write_text(json.dumps(settings))
    assert (load_run(tmp_path).config, load_run(tmp_path).settings) == (CONFIG, run.settings)
    assert start_run(tmp_path).steps == run.steps


def test_deprecated_names_warn_once_and_name_the_new_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(deprecation, "_warned", set())
    for old, new in {
        "Shape": "TransformerConfig",
        "interleaved": "interleave_pairs",
        "loss": "compute_loss",
    }.items():
        with pytest.warns(DeprecationWarning, match=rf"use tvlens\.training\.{new}$"):
            assert getattr(training, old) is getattr(training, new)
        assert getattr(training, old) is getattr(training, new)
    with pytest.warns(DeprecationWarning, match=r"use train\(report_every=\)"):
        run = train(CONFIG, sample, steps=2, every=1, folder=tmp_path, progress=False)
    assert run.settings["report_every"] == 1
    with pytest.warns(DeprecationWarning, match=r"use Run\.config"):
        assert run.shape == CONFIG


def test_load_run_accepts_metrics_without_checksums(tmp_path):
    run = start_run(tmp_path)
    metrics = run.metrics
    text = "".join(json.dumps(record) + "\n" for record in metrics)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert load_run(tmp_path).metrics == metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("0.0004", "0.0005"), "is damaged in line"),
        (lambda text: text[:-1], r"is damaged: it lacks step 2\. Give another folder"),
        (lambda text: "", "it lacks step 0"),
        (lambda text: "[]\n" + text, "is damaged in line 1"),
    ],
)
def test_train_refuses_damaged_metrics(change, message, tmp_path):
    start_run(tmp_path)
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(TvlensError, match=message):
        start_run(tmp_path)


def test_remove_damaged_deletes_a_run_with_damaged_metrics(tmp_path, capsys):
    run = start_run(tmp_path / "run")
    path = run.folder / "metrics.jsonl"
    path.write_text(path.read_text()[:-1])
    remove_damaged(run.folder)
    assert not run.folder.exists()
    assert "computed again" in capsys.readouterr().err
