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
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import fail_if_called

import tvlens as tv
from tvlens import TvlensError
from tvlens.studies import latent
from tvlens.studies.latent import cell, study
from tvlens.studies.latent.claim import Claim, verdicts
from tvlens.studies.latent.plan import Plan

# One worker makes the grid, once.
pytestmark = pytest.mark.xdist_group("latent")

SIZES = {
    "behaviour": {"sequences": 6},
    "representation": {"per_cell": 2, "resamples": 5, "null": 2},
    "injection": {"sequences": 6},
    "ablation": {"sequences": 6, "null": 2},
    "learning": {"sequences": 6, "restarts": 2, "null": 2, "rank": 1},
    "explained": {"sequences": 40, "null": 2},
    "novel_tasks": {"tasks": 4, "sequences": 4, "null": 5},
    "over_steps": {"sequences": 6, "tasks": 3, "per_task": 3, "per_cell": 2},
}
DICE = Plan(
    "dice", 10, 2, 32, 3, 8, 1e-3, ("none", 2), 0.3, 0.003, checks=SIZES, options={"faces": 4}
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
    assert [one.name for one in found.cells] == names
    dice = found.cell("dice", 2)
    assert [record["step"] for record in dice.steps] == [0, 1, 2, 3]
    assert dice.behaviour.splits == ("major", "minor", "ood") and len(dice.layers) == 2
    assert dice.steps[-1]["share"] <= 1 and dice.steps[0]["chance"] == pytest.approx(2 / 32)
    plain = found.cell("dice")
    torch.testing.assert_close(plain.example["weights"].sum(-1), torch.ones(3, 10))
    torch.testing.assert_close(plain.example["posterior"].sum(-1), torch.ones(3, 10).double())
    assert not found.cell("regression", 2).example
    numbers = json.loads((folder / "report.json").read_text())
    assert numbers["claims"] == [
        one.to_json() | {"interval": list(one.interval)} for one in found.claims
    ]
    page = (folder / "index.html").read_text()
    for title in ("Claims", "dice: the simplex", "markov: over training", "phase diagram"):
        assert title in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert found.verdicts().count("\n") == len(verdicts(found.claims))
    with pytest.raises(TvlensError, match="no cell dice-9-0; there are dice-none-0"):
        found.cell("dice", 9)


def test_the_claims_are_the_numbers_of_the_checks(made):
    found, _ = made

    def told(start, family, minor):
        kinds = [one for one in found.claims if (one.family, one.minor) == (family, minor)]
        (claim,) = [one for one in kinds if one.claim.startswith(start)]
        return claim

    for one in found.cells:
        claim = told("predicts like Bayes", one.family, one.minor)
        assert claim.value == one.behaviour.mean["major", "retrieval"]
        assert claim.holds == (claim.value < 0.003)
    dice = found.cell("dice", 2)
    new = told("extrapolates on new tasks", "dice", 2)
    first, second = (dice.behaviour.mean["ood", name] for name in ("retrieval", "extrapolation"))
    assert new.holds == (second < first) and new.interval[0] <= new.value <= new.interval[1]
    hurts = told("directions outside", "dice", 2)
    assert hurts.null == float(dice.learning.null[2].abs().max())
    assert hurts.holds == (hurts.value > 10 * hurts.null)
    assert told("with minors", "dice", 2).null == found.cell("dice").novel_tasks.share


def test_a_verdict_counts_seeds():
    one = Claim("said", "dice", 2, 0, 0.4, (0.3, 0.5), 0.9, "chance", "below 0.5", True)
    others = [replace(one, seed=1, value=0.6, holds=False), replace(one, seed=2, value=0.1)]
    (row,) = verdicts([one, *others])
    assert row["holds"] == "2 of 3" and row["model"] == "dice, 4 minors"
    assert (row["low"], row["value"], row["high"]) == (0.1, 0.4, 0.6)
    (alone,) = verdicts([one])
    assert alone["holds"] == "yes" and (alone["low"], alone["high"]) == (0.3, 0.5)


def test_finished_cells_are_never_made_again(made, monkeypatch):
    found, folder = made

    monkeypatch.setattr(cell, "train", fail_if_called)
    options = dict(folder=folder, jobs=1, progress=False)
    again = latent.run("tiny", **options)
    assert again.claims == found.claims
    alone = latent.run("tiny", families=["dice"], minor=["none"], **options)
    assert alone.claims == [one for one in found.claims if one.model == "dice, no minors"]
    with pytest.raises(AssertionError, match="made again"):
        latent.run("tiny", seed=1, **options)


@pytest.mark.no_arithmetic
def test_other_checks_use_the_trained_model_and_other_training_is_refused(tmp_path, monkeypatch):
    options = dict(folder=tmp_path, families=["dice"], minor=["none"], jobs=1, progress=False)
    latent.run("tiny", **options)
    trained = (tmp_path / "dice-none-0/run/checkpoints/step-00000003.safetensors").stat().st_mtime
    fewer = replace(DICE, checks=SIZES | {"behaviour": {"sequences": 3}})
    monkeypatch.setitem(study.PRESETS, "tiny", (fewer,))
    assert latent.run("tiny", **options).cells[0].behaviour.kl.shape[2] == 3
    again = (tmp_path / "dice-none-0/run/checkpoints/step-00000003.safetensors").stat().st_mtime
    assert again == trained
    with pytest.raises(TvlensError, match=r"holds another run: .*steps: 3 there, 4 here"):
        latent.run("tiny", steps=4, **options)


@pytest.mark.no_arithmetic
def test_cells_belong_to_the_code_that_checked_them(tmp_path, monkeypatch):
    options = dict(folder=tmp_path, families=["dice"], minor=["none"], jobs=1, progress=False)
    checks = []
    real = cell.check
    monkeypatch.setattr(cell, "check", lambda *given: checks.append(1) or real(*given))
    latent.run("tiny", **options)
    latent.run("tiny", **options)
    assert len(checks) == 1
    monkeypatch.setattr(cell, "code_digest", lambda: "another version")

    def interrupted(*given):
        real(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cell, "check", interrupted)
        with pytest.raises(KeyboardInterrupt):
            latent.run("tiny", **options)
    assert not (tmp_path / "dice-none-0/done.json").exists(), "half of it is the other version's"
    latent.run("tiny", **options)
    assert len(checks) == 2


@pytest.mark.no_arithmetic
def test_a_damaged_file_makes_a_finished_cell_unfinished(made, tmp_path, capsys, monkeypatch):
    """Every file that is read, damaged in every way: said in one line, and made anew."""
    _, there = made
    before = cell.load(there, "dice", "none", 0)
    folder = tmp_path / "latent"
    shutil.copytree(there / "dice-none-0", folder / "dice-none-0")
    place = folder / "dice-none-0"
    assert cell.finished(DICE, "none", 0, folder) and not capsys.readouterr().err
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
            assert not cell.finished(DICE, "none", 0, folder)
            told = capsys.readouterr().err
            if file.name != "done.json":
                assert file.name in told and told.count("\n") == 1
            file.write_bytes(content)
    assert cell.finished(DICE, "none", 0, folder)
    files[-1].write_bytes(b"")
    cell.make(DICE, "none", 0, folder)
    assert cell.finished(DICE, "none", 0, folder)
    assert torch.equal(cell.load(folder, "dice", "none", 0).behaviour.kl, before.behaviour.kl)


@pytest.mark.parametrize(
    "name", ["run.json", "metrics.jsonl", "checkpoints/step-00000002.safetensors"]
)
def test_a_damaged_run_is_trained_again(name, made, tmp_path, capsys):
    _, there = made
    shutil.copytree(there / "dice-none-0", tmp_path / "dice-none-0")
    run = tmp_path / "dice-none-0" / "run"
    (run / name).write_bytes(b"\xff\xfe")
    (tmp_path / "dice-none-0" / "steps.json").unlink()
    cell.make(DICE, "none", 0, tmp_path)
    assert cell.finished(DICE, "none", 0, tmp_path)
    assert "is made anew" in capsys.readouterr().err
    one, other = (
        tv.training.load_run(place / "dice-none-0" / "run") for place in (tmp_path, there)
    )
    assert one.steps == other.steps
    weights = one.weights(), other.weights()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# A process of its own group that hears Ctrl-C, even where the tests run in the background.
INTERRUPTIBLE = dict(
    start_new_session=True,
    preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
)

KILLED = """
import sys
from dataclasses import replace
sys.path.insert(0, {tests!r})
from test_study import DICE
from tvlens.studies.latent import cell
if __name__ == "__main__":
    cell.make(replace(DICE, steps=400), "none", 0, {folder!r})
"""


@pytest.mark.no_arithmetic
def test_a_killed_cell_goes_on_and_ends_with_the_same_numbers(tmp_path):
    place = tmp_path / "killed"
    code = textwrap.dedent(KILLED).format(tests=os.path.dirname(__file__), folder=str(place))
    process = subprocess.Popen([sys.executable, "-c", code])
    while not list(place.glob("*/run/checkpoints/*200.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (place / "dice-none-0/done.json").exists()
    plan = replace(DICE, steps=400)
    for folder in (place, tmp_path / "whole"):
        cell.make(plan, "none", 0, folder)
    one, other = (cell.load(folder, "dice", "none", 0) for folder in (place, tmp_path / "whole"))
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
    assert spread.claims == [one for one in found.claims if one.family == "dice"]


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
    assert spread.claims == [one for one in found.claims if one.family == "dice"]


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
