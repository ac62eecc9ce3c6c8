"""The study of latent tasks: models, cache, claims, signals, bad input."""

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import TINY_LATENT_CHECKS, fail_if_called, restore_signal_handlers

import tvlens as tv
from tvlens import TvlensError
from tvlens.studies import latent
from tvlens.studies.latent import study, trained_model
from tvlens.studies.latent.checks import CHECKS
from tvlens.studies.latent.config import FAMILIES, FamilyConfig

# One worker makes the grid, once.
pytestmark = pytest.mark.xdist_group("latent")

DICE = FamilyConfig(
    *("dice", 10, 2, 32, 3, 8, 1e-3, ("none", 2), 0.3, 0.003),
    per_cell=2,
    checks=TINY_LATENT_CHECKS,
    options={"faces": 4},
)
CHAINS = replace(DICE, family="markov", minor=("none",), options={"states": 3})
PATHS = replace(DICE, family="dyck", minor=("none",), options={"symbols": 2, "pairs": 3})
PAIRS = replace(DICE, family="regression", minor=(2,), options={"dim": 2})


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(study.PRESETS, "tiny", (DICE, CHAINS, PAIRS, PATHS))
        yield


@pytest.fixture(scope="module")
def latent_run(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("latent")
    return latent.run("tiny", folder=folder, jobs=1, progress=False), folder


def test_run_trains_checks_and_plots_every_model(latent_run):
    study, folder = latent_run
    names = ["dice-none-0", "dice-2-0", "markov-none-0", "regression-2-0", "dyck-none-0"]
    assert [model.name for model in study.models] == names
    dice = study.model("dice", 2)
    assert dice.places("checkpoints") == [0, 1, 2, 3]
    assert dice["behaviour"].splits == ("major", "minor", "ood")
    assert dice["checkpoints", 3].splits == ("train", "major", "minor", "ood")
    assert dice.places("novel_tasks") == [0, 1]
    assert float(dice["checkpoints", 3].share[0, 0]) <= 1
    assert 0 < dice["checkpoints", 0].null_share < 1
    plain = study.model("dice")
    assert plain.places("posterior_weights") == [0, 1]
    assert plain["posterior_weights", "label"].settings["model"] == "label"
    with pytest.raises(TvlensError, match="regression-2-0 has no representation at 0; there are n"):
        study.model("regression", 2)["representation", 0]
    numbers = json.loads((folder / "report.json").read_text())
    assert numbers["claims"] == [claim.to_dict() for claim in study.claims]
    page = (folder / "index.html").read_text()
    for title in ("Claims", "properties of the states", "markov: over training", "phase diagram"):
        assert title in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert study.verdicts().count("\n") == len(study.claims)
    with pytest.raises(TvlensError, match="no model dice-9-0; there are dice-none-0"):
        study.model("dice", 9)


def test_claims_have_the_numbers_of_the_checks(latent_run):
    study, _ = latent_run

    def claim(name, family, minors, **layer):
        where = {"family": family, "minors": minors, "seed": 0} | layer
        (match,) = [c for c in study.claims if c.id == name and c.where == where]
        return match

    for model in study.models:
        retrieval = claim("retrieval-kl", model.family, model.minors)
        assert retrieval.value == model["behaviour"].mean["major", "retrieval"]
        assert (retrieval.side, retrieval.threshold) == ("below", 0.003)
    dice = study.model("dice", 2)
    extrapolation = claim("extrapolation", "dice", 4)
    assert extrapolation.value == dice["behaviour"].log_ratio("ood")
    assert extrapolation.interval[0] <= extrapolation.value <= extrapolation.interval[1]
    learner = claim("learner-subspace", "dice", 4, layer=1)
    assert learner.value == dice["learner_subspace", 1].share["ood"]
    largest = dice["learner_subspace", 1].null_share["ood"]
    assert learner.nulls == {"largest of random subspaces": largest}
    assert claim("learner-subspace-spares-known-tasks", "dice", 4, layer=1).threshold == 0.1
    novel = claim("novel-tasks-leave-span", "dice", 4, layer=1)
    without = study.model("dice")["novel_tasks", 1].share
    learner_share = dice["novel_tasks", 1].null
    assert novel.nulls == {"without minors": without, "perfect learner": learner_share}
    ids = {c.id for c in study.claims if c.where["family"] == "markov"}
    assert {"interaction-below-readout", "correlation-by-token", "injected-by-token"} <= ids
    correlation = claim("correlation", "dice", 0, layer=0)
    assert set(correlation.nulls) == {"label", "learner", "readout", "untrained"}
    result = study.model("dice")["posterior_weights", 0]
    assert correlation.value == float(result["correlation"][result.uncertain_position])


def test_claims_about_a_layer_use_the_layers_of_the_rule(latent_run):
    study, _ = latent_run
    layers = [c.where["layer"] for c in study.claims if c.id == "interaction"]
    assert set(layers) == {0, 1}


def test_claim_ids_are_unique_within_a_family():
    for family in FAMILIES:
        rules = [rule for check in CHECKS.values() for rule in check.claims]
        ids = [rule.id for rule in rules if family in rule.families]
        assert len(set(ids)) == len(ids)


def test_finished_models_are_neither_trained_nor_checked_again(latent_run, monkeypatch):
    found, folder = latent_run
    monkeypatch.setattr("tvlens.training.loop.compute_loss", fail_if_called)
    fail = {name: replace(check, compute=fail_if_called) for name, check in CHECKS.items()}
    monkeypatch.setattr(trained_model, "CHECKS", fail)
    options = dict(folder=folder, jobs=1, progress=False)
    again = latent.run("tiny", **options)
    assert again.claims == found.claims
    alone = latent.run("tiny", families=["dice"], minor=["none"], **options)
    assert alone.claims == [
        c for c in found.claims if (c.where["family"], c.where["minors"]) == ("dice", 0)
    ]
    with pytest.raises(AssertionError, match="must not be"):
        latent.run("tiny", seed=1, **options)


@pytest.mark.no_arithmetic
def test_run_reuses_training_for_other_checks_only(tmp_path, monkeypatch):
    options = dict(folder=tmp_path, families=["dice"], minor=["none"], jobs=1, progress=False)
    latent.run("tiny", **options)
    trained = (tmp_path / "dice-none-0/run/checkpoints/step-00000003.safetensors").stat().st_mtime
    fewer = replace(DICE, checks=TINY_LATENT_CHECKS | {"behaviour": {"sequences": 3}})
    monkeypatch.setitem(study.PRESETS, "tiny", (fewer,))
    assert latent.run("tiny", **options).models[0]["behaviour"].kl.shape[2] == 3
    retrained = (tmp_path / "dice-none-0/run/checkpoints/step-00000003.safetensors").stat().st_mtime
    assert retrained == trained
    with pytest.raises(TvlensError, match=r"holds another run: .*steps: 3 there, 4 here"):
        latent.run("tiny", steps=4, **options)


@pytest.mark.no_arithmetic
def test_results_belong_to_the_code_that_made_them(tmp_path, monkeypatch):
    options = dict(folder=tmp_path, families=["dice"], minor=["none"], jobs=1, progress=False)
    calls = []

    def count(setup):
        calls.append(1)
        return CHECKS["behaviour"].compute(setup)

    checks = CHECKS | {"behaviour": replace(CHECKS["behaviour"], compute=count)}
    monkeypatch.setattr(trained_model, "CHECKS", checks)
    latent.run("tiny", **options)
    latent.run("tiny", **options)
    assert len(calls) == 1
    monkeypatch.setattr("tvlens.studies.cache.code_digest", lambda: "another version")
    latent.run("tiny", **options)
    assert len(calls) == 2
    assert len(list((tmp_path / "dice-none-0/checks").glob("behaviour-*"))) == 1


@pytest.mark.no_arithmetic
def test_damaged_result_is_reported_in_one_line_and_computed_again(latent_run, tmp_path, capsys):
    """Every file that is read, damaged in every way."""
    before, there = latent_run
    folder = tmp_path / "latent"
    shutil.copytree(there / "dice-none-0", folder / "dice-none-0")
    assert trained_model.is_checked(DICE, "none", 0, folder)
    files = sorted((folder / "dice-none-0/checks").iterdir())
    assert len(files) > 8

    def flip(content):
        return content[:-1] + bytes([content[-1] ^ 1])

    damages = [flip, lambda _: b"", lambda content: content[: len(content) // 2]]
    for i, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes(damages[i % 3](content))
        assert trained_model.is_checked(DICE, "none", 0, folder)
        model = trained_model.train_and_check(DICE, "none", 0, folder)
        errors = capsys.readouterr().err
        assert file.name in errors and errors.count("\n") == 1
        assert file.read_bytes() == content
        file.unlink()
        assert not trained_model.is_checked(DICE, "none", 0, folder)
        file.write_bytes(content)
    assert torch.equal(model["behaviour"].kl, before.model("dice")["behaviour"].kl)


@pytest.mark.parametrize(
    "name", ["run.json", "metrics.jsonl", "checkpoints/step-00000003.safetensors"]
)
def test_train_and_check_repeats_a_damaged_run(name, latent_run, tmp_path, capsys):
    _, source = latent_run
    shutil.copytree(source / "dice-none-0", tmp_path / "dice-none-0")
    run = tmp_path / "dice-none-0" / "run"
    (run / name).write_bytes(b"\xff\xfe")
    trained_model.train_and_check(DICE, "none", 0, tmp_path)
    assert trained_model.is_checked(DICE, "none", 0, tmp_path)
    assert "computed again" in capsys.readouterr().err
    one, other = (tv.training.load_run(root / "dice-none-0" / "run") for root in (tmp_path, source))
    assert one.steps == other.steps
    weights = one.weights(), other.weights()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# A process of its own group that hears Ctrl-C, even where the tests run in the background.
INTERRUPTIBLE = dict(start_new_session=True, preexec_fn=restore_signal_handlers)

KILLED = """
import sys
from dataclasses import replace
sys.path[:0] = {folders!r}
from test_study import DICE
from tvlens.studies.latent.trained_model import train_and_check
if __name__ == "__main__":
    train_and_check(replace(DICE, steps=400), "none", 0, {folder!r})
"""


@pytest.mark.no_arithmetic
def test_killed_training_resumes_with_the_same_numbers(tmp_path):
    killed = tmp_path / "killed"
    tests = Path(__file__).parent
    folders = [str(tests), str(tests.parents[1])]  # of this file and of helpers.py
    code = textwrap.dedent(KILLED).format(folders=folders, folder=str(killed))
    process = subprocess.Popen([sys.executable, "-c", code])
    while not list(killed.glob("*/run/checkpoints/*200.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.wait()
    longer = replace(DICE, steps=400)
    assert not trained_model.is_checked(longer, "none", 0, killed)
    one, other = (
        trained_model.train_and_check(longer, "none", 0, folder)
        for folder in (killed, tmp_path / "whole")
    )
    assert one.places("checkpoints") == other.places("checkpoints")
    assert torch.equal(one["behaviour"].kl, other["behaviour"].kl)
    assert torch.equal(one["representation", 1].values, other["representation", 1].values)


def session_processes(session):
    """List the running processes of a session."""
    alive = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            state, _, _, process_session = Path(path).read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        alive += [path] * (int(process_session) == session and state != "Z")
    return alive


def has_ended(session, within=10):
    """Whether all processes of a session end within `within` seconds."""
    until = time.monotonic() + within
    while session_processes(session) and time.monotonic() < until:
        time.sleep(0.1)
    return not session_processes(session)


@pytest.fixture
def working_command(tmp_path):
    """A running command whose two workers have written checkpoints."""
    command = [sys.executable, "-m", "tvlens", "latent", "--jobs", "2", "-o", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **INTERRUPTIBLE)
    while not list(tmp_path.glob("*/run/checkpoints/*8.safetensors")) and process.poll() is None:
        time.sleep(0.05)
    yield process
    if session_processes(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.no_arithmetic
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="counts processes in /proc")
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill), (signal.SIGHUP, os.killpg)],
)
def test_signals_end_the_command_and_its_workers_with_one_line(
    number, send, working_command, tmp_path
):
    send(working_command.pid, number)
    _, errors = working_command.communicate(timeout=60)
    assert working_command.returncode == 130
    assert "Traceback" not in errors and "Warning" not in errors
    assert errors.count("tvlens: interrupted; run the same command again to go on") == 1
    assert has_ended(working_command.pid)
    assert list(tmp_path.glob("*/run/checkpoints/*.safetensors"))
    assert not list(tmp_path.glob(".tvlens*"))


@pytest.mark.no_arithmetic
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="counts processes in /proc")
def test_workers_end_with_a_killed_parent(working_command):
    working_command.kill()
    assert has_ended(working_command.pid)


@pytest.mark.no_arithmetic
def test_run_in_two_processes_gives_serial_claims(latent_run, tmp_path):
    result, _ = latent_run
    options = dict(families=["dice"], progress=False)
    parallel = latent.run("tiny", folder=tmp_path, jobs=2, **options)
    assert parallel.claims == [claim for claim in result.claims if claim.where["family"] == "dice"]


@pytest.mark.no_arithmetic
def test_run_on_a_dask_cluster_gives_serial_claims(latent_run, tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    import joblib

    result, _ = latent_run
    local = dict(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
    with (
        distributed.LocalCluster(**local) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        distributed_run = latent.run("tiny", folder=tmp_path, families=["dice"], progress=False)
    assert distributed_run.claims == [
        claim for claim in result.claims if claim.where["family"] == "dice"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(preset="quik"), "did you mean 'quick'"),
        (dict(families=["dic"]), "did you mean 'dice'"),
        (dict(families=["markov"]), "preset 'quick' has no markov, only dice"),
        (dict(families=[]), "no family to study"),
        (dict(minor=[]), "no number of minor tasks"),
        (dict(minor=["nine"]), "exponent k of 2\\^k minor tasks, 0 to 16, not 'nine'"),
        (dict(minor=[-1]), "not -1"),
        (dict(minor=[17]), "not 17"),
        (dict(seeds=0), "seeds is a whole number of at least 1"),
        (dict(seed=-1), "seed is a whole number of at least 0"),
        (dict(steps=0), "steps is a whole number of at least 1"),
        (dict(jobs=0), "jobs is a whole number of at least 1"),
    ],
)
def test_bad_input_raises_one_line_errors_before_any_work(options, message, tmp_path):
    with pytest.raises(TvlensError, match=message):
        latent.run(**{"preset": "quick", **options}, folder=tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_latent_study_is_reachable_from_the_package():
    assert tv.studies.latent.run is latent.run
    assert set(latent.PRESETS) >= {"quick", "cpu", "paper"}
