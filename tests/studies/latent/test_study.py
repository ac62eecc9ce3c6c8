"""The study of latent tasks: its grid, what it keeps, what it claims and what it refuses."""

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
from helpers import TINY_LATENT_CHECKS, fail_if_called, hear_signals

import tvlens as tv
from tvlens import TvlensError
from tvlens.studies import latent
from tvlens.studies.latent import study, trained_model
from tvlens.studies.latent.config import FamilyConfig

# One worker makes the grid, once.
pytestmark = pytest.mark.xdist_group("latent")

DICE = FamilyConfig(
    *("dice", 10, 2, 32, 3, 8, 1e-3, ("none", 2), 0.3, 0.003),
    checks=TINY_LATENT_CHECKS,
    options={"faces": 4},
)
CHAINS = replace(DICE, family="markov", minor=("none",), options={"states": 3})
PAIRS = replace(DICE, family="regression", minor=(2,), options={"dim": 2})


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(study.PRESETS, "tiny", (DICE, CHAINS, PAIRS))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("latent")
    return latent.run("tiny", folder=folder, jobs=1, progress=False), folder


def test_every_cell_is_made_checked_and_shown(made):
    found, folder = made
    names = ["dice-none-0", "dice-2-0", "markov-none-0", "regression-2-0"]
    assert [one.name for one in found.models] == names
    dice = found.model("dice", 2)
    assert [record["step"] for record in dice.steps] == [0, 1, 2, 3]
    assert dice.behaviour.splits == ("major", "minor", "ood") and len(dice.layers) == 2
    assert dice.steps[-1]["share"] <= 1 and dice.steps[0]["null_share"] == pytest.approx(2 / 32)
    plain = found.model("dice")
    torch.testing.assert_close(plain.example["weights"].sum(-1), torch.ones(3, 10))
    torch.testing.assert_close(plain.example["posterior"].sum(-1), torch.ones(3, 10).double())
    assert not found.model("regression", 2).example
    numbers = json.loads((folder / "report.json").read_text())
    assert numbers["claims"] == [claim.to_dict() for claim in found.claims]
    page = (folder / "index.html").read_text()
    for title in ("Claims", "dice: the simplex", "markov: over training", "phase diagram"):
        assert title in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert found.verdicts().count("\n") == len(found.claims)
    with pytest.raises(TvlensError, match="no model dice-9-0; there are dice-none-0"):
        found.model("dice", 9)


def test_claims_have_the_numbers_of_the_checks(made):
    study, _ = made

    def claim(name, family, minors):
        where = {"family": family, "minors": minors, "seed": 0}
        (found,) = [c for c in study.claims if c.id == name and c.where == where]
        return found

    for model in study.models:
        minors = 0 if model.minor == "none" else 2**model.minor
        retrieval = claim("retrieval-kl", model.family, minors)
        assert retrieval.value == model.behaviour.mean["major", "retrieval"]
        assert (retrieval.side, retrieval.threshold) == ("below", 0.003)
    dice = study.model("dice", 2)
    extrapolation = claim("extrapolation", "dice", 4)
    assert extrapolation.value == dice.behaviour.log_ratio("ood")
    assert extrapolation.interval[0] <= extrapolation.value <= extrapolation.interval[1]
    learner = claim("learner-subspace", "dice", 4)
    assert learner.value == dice.learner_subspace.share["ood"]
    largest = dice.learner_subspace.null_share["ood"]
    assert learner.nulls == {"largest of random subspaces": largest}
    novel = claim("novel-tasks-leave-span", "dice", 4)
    assert novel.nulls == {"without minors": study.model("dice").novel_tasks.share}
    assert claim("learner-subspace-spares-known-tasks", "dice", 4).threshold == 0.1
    ids = {c.id for c in study.claims if c.where["family"] == "markov"}
    assert {"interaction", "correlation-by-token", "injected-by-token"} <= ids


def test_finished_cells_are_never_made_again(made, monkeypatch):
    found, folder = made

    monkeypatch.setattr(trained_model, "train", fail_if_called)
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
def test_other_checks_use_the_trained_model_and_other_training_is_refused(tmp_path, monkeypatch):
    options = dict(folder=tmp_path, families=["dice"], minor=["none"], jobs=1, progress=False)
    latent.run("tiny", **options)
    trained = (tmp_path / "dice-none-0/run/checkpoints/step-00000003.safetensors").stat().st_mtime
    fewer = replace(DICE, checks=TINY_LATENT_CHECKS | {"behaviour": {"sequences": 3}})
    monkeypatch.setitem(study.PRESETS, "tiny", (fewer,))
    assert latent.run("tiny", **options).models[0].behaviour.kl.shape[2] == 3
    again = (tmp_path / "dice-none-0/run/checkpoints/step-00000003.safetensors").stat().st_mtime
    assert again == trained
    with pytest.raises(TvlensError, match=r"holds another run: .*steps: 3 there, 4 here"):
        latent.run("tiny", steps=4, **options)


@pytest.mark.no_arithmetic
def test_cells_belong_to_the_code_that_checked_them(tmp_path, monkeypatch):
    options = dict(folder=tmp_path, families=["dice"], minor=["none"], jobs=1, progress=False)
    checks = []
    real = trained_model.check_model
    monkeypatch.setattr(
        trained_model, "check_model", lambda *given: checks.append(1) or real(*given)
    )
    latent.run("tiny", **options)
    latent.run("tiny", **options)
    assert len(checks) == 1
    monkeypatch.setattr(trained_model, "code_digest", lambda: "another version")

    def interrupted(*given):
        real(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trained_model, "check_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            latent.run("tiny", **options)
    assert not (tmp_path / "dice-none-0/done.json").exists(), "half of it is the other version's"
    latent.run("tiny", **options)
    assert len(checks) == 2


@pytest.mark.no_arithmetic
def test_a_damaged_file_makes_a_finished_cell_unfinished(made, tmp_path, capsys, monkeypatch):
    """Every file that is read, damaged in every way: said in one line, and made anew."""
    _, there = made
    before = trained_model.load_result(there, "dice", "none", 0)
    folder = tmp_path / "latent"
    shutil.copytree(there / "dice-none-0", folder / "dice-none-0")
    place = folder / "dice-none-0"
    assert trained_model.is_finished(DICE, "none", 0, folder) and not capsys.readouterr().err
    files = [place / "done.json", place / "steps.json", *(place / "checks").iterdir()]
    assert len(files) > 8

    def flip(content):
        return content[:-1] + bytes([content[-1] ^ 1])

    for file in files:
        content = file.read_bytes()
        for damage in (flip, lambda _: b"", lambda content: content[: len(content) // 2], None):
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage(content))
            assert not trained_model.is_finished(DICE, "none", 0, folder)
            told = capsys.readouterr().err
            if file.name != "done.json":
                assert file.name in told and told.count("\n") == 1
            file.write_bytes(content)
    assert trained_model.is_finished(DICE, "none", 0, folder)
    files[-1].write_bytes(b"")
    trained_model.train_and_check(DICE, "none", 0, folder)
    assert trained_model.is_finished(DICE, "none", 0, folder)
    assert torch.equal(
        trained_model.load_result(folder, "dice", "none", 0).behaviour.kl, before.behaviour.kl
    )


@pytest.mark.parametrize(
    "name", ["run.json", "metrics.jsonl", "checkpoints/step-00000002.safetensors"]
)
def test_a_damaged_run_is_trained_again(name, made, tmp_path, capsys):
    _, there = made
    shutil.copytree(there / "dice-none-0", tmp_path / "dice-none-0")
    run = tmp_path / "dice-none-0" / "run"
    (run / name).write_bytes(b"\xff\xfe")
    (tmp_path / "dice-none-0" / "steps.json").unlink()
    trained_model.train_and_check(DICE, "none", 0, tmp_path)
    assert trained_model.is_finished(DICE, "none", 0, tmp_path)
    assert "computed again" in capsys.readouterr().err
    one, other = (
        tv.training.load_run(place / "dice-none-0" / "run") for place in (tmp_path, there)
    )
    assert one.steps == other.steps
    weights = one.weights(), other.weights()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# A process of its own group that hears Ctrl-C, even where the tests run in the background.
INTERRUPTIBLE = dict(start_new_session=True, preexec_fn=hear_signals)

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
def test_a_killed_cell_goes_on_and_ends_with_the_same_numbers(tmp_path):
    place = tmp_path / "killed"
    here = Path(__file__).parent
    folders = [str(here), str(here.parents[1])]  # of this file and of helpers.py
    code = textwrap.dedent(KILLED).format(folders=folders, folder=str(place))
    process = subprocess.Popen([sys.executable, "-c", code])
    while not list(place.glob("*/run/checkpoints/*200.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.wait()
    assert not (place / "dice-none-0/done.json").exists()
    plan = replace(DICE, steps=400)
    for folder in (place, tmp_path / "whole"):
        trained_model.train_and_check(plan, "none", 0, folder)
    one, other = (
        trained_model.load_result(folder, "dice", "none", 0)
        for folder in (place, tmp_path / "whole")
    )
    assert one.steps == other.steps
    assert torch.equal(one.behaviour.kl, other.behaviour.kl)
    assert torch.equal(one.representation.values, other.representation.values)


def members(session):
    """The processes of a session that are alive."""
    alive = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            state, _, _, its = Path(path).read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        alive += [path] * (int(its) == session and state != "Z")
    return alive


def gone(session, within=10):
    """Whether all processes of a session end soon."""
    until = time.monotonic() + within
    while members(session) and time.monotonic() < until:
        time.sleep(0.1)
    return not members(session)


@pytest.fixture
def working(tmp_path):
    """A command whose two workers have written checkpoints."""
    command = [sys.executable, "-m", "tvlens", "latent", "--jobs", "2", "-o", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **INTERRUPTIBLE)
    while not list(tmp_path.glob("*/run/checkpoints/*8.safetensors")) and process.poll() is None:
        time.sleep(0.05)
    yield process
    if members(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.no_arithmetic
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="counts processes in /proc")
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill), (signal.SIGHUP, os.killpg)],
)
def test_signals_end_in_one_line_without_orphans(number, send, working, tmp_path):
    send(working.pid, number)
    _, errors = working.communicate(timeout=60)
    assert working.returncode == 130
    assert "Traceback" not in errors and "Warning" not in errors
    assert errors.count("tvlens: interrupted; run the same command again to go on") == 1
    assert gone(working.pid)
    assert list(tmp_path.glob("*/run/checkpoints/*.safetensors"))
    assert not list(tmp_path.glob(".tvlens*"))


@pytest.mark.no_arithmetic
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="counts processes in /proc")
def test_workers_end_with_a_parent_that_was_killed(working):
    working.kill()
    assert gone(working.pid)


@pytest.mark.no_arithmetic
def test_a_grid_in_processes_is_the_grid_in_one(made, tmp_path):
    found, _ = made
    options = dict(families=["dice"], progress=False)
    spread = latent.run("tiny", folder=tmp_path, jobs=2, **options)
    assert spread.claims == [claim for claim in found.claims if claim.where["family"] == "dice"]


@pytest.mark.no_arithmetic
def test_a_grid_on_a_dask_cluster_is_the_grid_in_one(made, tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    import joblib

    found, _ = made
    local = dict(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
    with (
        distributed.LocalCluster(**local) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        spread = latent.run("tiny", folder=tmp_path, families=["dice"], progress=False)
    assert spread.claims == [claim for claim in found.claims if claim.where["family"] == "dice"]


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
def test_mistakes_are_named_before_any_work(options, message, tmp_path):
    with pytest.raises(TvlensError, match=message):
        latent.run(**{"preset": "quick", **options}, folder=tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_the_study_is_where_people_look_for_it():
    assert tv.studies.latent.run is latent.run
    assert set(latent.PRESETS) >= {"quick", "cpu", "paper"}
