import itertools
import json
import math
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tvlens import TvlensError
from tvlens.training import (
    Transformer,
    TransformerConfig,
    compute_loss,
    constant,
    cosine,
    load_run,
    log_steps,
    step_seed,
    train,
    triangular,
)

pytestmark = pytest.mark.tl3

CONFIG = TransformerConfig(context=8, vocab=5, layers=2, d_model=16, heads=2)
STEPS = 21


def tokens(seed, rows=4):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 5, (rows, 9)))


def evaluate_height(model, step):
    """A number that depends on the weights."""
    return {"height": model(tokens(0)[:, :8]).abs().max()}


def start_run(folder, sample=tokens, **options):
    options = (
        dict(steps=STEPS, report_every=5, evaluate=evaluate_height, progress=False, lr=1e-2)
        | options
    )
    return train(CONFIG, sample, folder=folder, **options)


def metrics_without_seconds(run):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in run.metrics]


def assert_equal_runs(run, other):
    """Assert that weights and metrics are bitwise equal."""
    assert run.steps == other.steps
    for step in run.steps:
        actual, expected = run.weights(step), other.weights(step)
        assert all(torch.equal(actual[name], expected[name]) for name in actual | expected)
    assert metrics_without_seconds(run) == metrics_without_seconds(other)


@pytest.fixture(scope="module")
def complete_run(tmp_path_factory):
    """An uninterrupted run."""
    return start_run(tmp_path_factory.mktemp("whole") / "run")


def test_train_writes_checkpoints_and_metrics(complete_run):
    assert complete_run.finished and complete_run.steps == [0, 1, 2, 4, 8, 16, 21] == log_steps(
        STEPS
    )
    assert [r["step"] for r in complete_run.metrics] == [0, 1, 2, 4, 5, 8, 10, 15, 16, 20, 21]
    assert complete_run.metrics[0]["loss"] is None
    assert list(complete_run.to_dataframe().columns) == ["step", "loss", "lr", "height", "seconds"]
    seconds = complete_run.to_dataframe().seconds
    assert seconds.is_monotonic_increasing
    assert "loss" in complete_run._repr_html_() and repr(complete_run).endswith("step 21 of 21)")


def apply_adamw(model, gradients, moments, lr, decay, count):
    """One update of AdamW as the paper writes it (Loshchilov and Hutter 2019, algorithm 2)."""
    for name, weight in model.named_parameters():
        first, second = moments.setdefault(name, [torch.zeros_like(weight) for _ in range(2)])
        first.mul_(0.9).add_(0.1 * gradients[name])
        second.mul_(0.999).add_(0.001 * gradients[name] ** 2)
        step = first / (1 - 0.9**count) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
        weight.data -= lr * step + lr * decay * weight.data


@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_train_equals_adamw_on_the_mean_cross_entropy(tmp_path, max_grad_norm):
    options = dict(weight_decay=0.1, max_grad_norm=max_grad_norm)
    run = start_run(tmp_path, steps=6, report_every=1, seed=3, **options)
    model, moments = Transformer(CONFIG, seed=3), {}
    for step in range(6):
        model.zero_grad()
        batch = tokens(step_seed(3, step))
        logs = model(batch[:, :-1]).log_softmax(-1)
        cost = -logs.gather(-1, batch[:, 1:, None]).mean()
        cost.backward()
        record = next(r for r in run.metrics if r["step"] == step + 1)
        assert record["loss"] == pytest.approx(cost.item(), abs=1e-5)
        assert record["lr"] == triangular(step, 6, 1e-2)
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        norm = sum(gradient.square().sum() for gradient in gradients.values()).sqrt()
        if max_grad_norm is not None:
            assert norm > max_grad_norm
            gradients = {name: g * max_grad_norm / norm for name, g in gradients.items()}
        apply_adamw(model, gradients, moments, record["lr"], 0.1, step + 1)
    for name, weight in run.weights().items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stop", [0, 3, 10, 13, 20])
def test_interrupted_run_resumes_with_the_same_bits(tmp_path, complete_run, stop):
    interrupting_seed = step_seed(0, stop)
    seeds = []

    def interrupt(seed):
        seeds.append(seed)
        if seed == interrupting_seed and len(seeds) > 2:  # the first two draws look at the data
            raise KeyboardInterrupt
        return tokens(seed)

    with pytest.raises(KeyboardInterrupt):
        start_run(tmp_path, interrupt)
    halted = load_run(tmp_path)
    assert not halted.finished
    before = halted.steps[-1]
    assert stop - 5 < before <= stop
    resumed_seeds = []
    resumed = start_run(tmp_path, lambda seed: resumed_seeds.append(seed) or tokens(seed))
    assert len(resumed_seeds) == 2 + STEPS - before
    assert_equal_runs(resumed, complete_run)


KILLED = """
    import os, signal, sys
    import torch
    torch.set_num_threads(int(sys.argv[2]))
    from test_loop import start_run, step_seed, tokens

    calls = []

    def sample(seed):
        calls.append(seed)
        if len(calls) > 2 and seed == step_seed(0, 14):
            os.kill(os.getpid(), signal.SIGKILL)
        return tokens(seed)

    start_run(sys.argv[1], sample)
"""


def test_killed_run_resumes_with_the_same_bits(tmp_path, complete_run):
    threads = str(torch.get_num_threads())
    script = textwrap.dedent(KILLED)
    paths = json.dumps([p for p in sys.path if p])
    script = f"import sys; sys.path[:0] = {paths} + [{str(__file__.rsplit('/', 1)[0])!r}]\n{script}"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), threads])
    assert done.returncode == -signal.SIGKILL
    assert load_run(tmp_path).steps[-1] == 10
    # What a kill at a worse moment leaves: half a file, a report without its checkpoint, half a
    # line.
    (tmp_path / "checkpoints" / ".step-00000015.safetensors.x.safetensors").write_bytes(b"half")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "loss": 1.0, "lr": 0.1, "seconds": 9.0}\n{"step": 16, "lo')
    assert_equal_runs(start_run(tmp_path), complete_run)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {f"step-{step:08d}.safetensors" for step in log_steps(STEPS)}


def test_train_returns_a_finished_run(tmp_path, complete_run):
    files = {
        path: path.stat().st_mtime_ns for path in (complete_run.folder / "checkpoints").iterdir()
    }
    assert start_run(complete_run.folder).steps == complete_run.steps
    assert files == {
        p: p.stat().st_mtime_ns for p in (complete_run.folder / "checkpoints").iterdir()
    }


def test_checkpoints_load_as_models(complete_run):
    batch = tokens(1)[:, :8]
    for step in (0, 8, None):
        model = complete_run.model(step)
        assert model.cfg.model_name == f"run at step {STEPS if step is None else step}"
        with torch.no_grad():
            torch.testing.assert_close(model(batch), complete_run.transformer(step)(batch))
    assert torch.equal(
        complete_run.transformer(0).unembed.weight, Transformer(CONFIG).unembed.weight
    )
    with pytest.raises(TvlensError, match="no checkpoint at step 7: the nearest is 8"):
        complete_run.model(7)


def test_train_saves_selected_checkpoints(tmp_path):
    assert start_run(tmp_path, checkpoints=[3, 7]).steps == [3, 7, 21]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=2e-2), "lr: 0.01 there, 0.02 here"),
        (dict(steps=22), "steps: 21 there, 22 here"),
        (dict(seed=1), "seed: 0 there, 1 here"),
        (dict(schedule=constant), "rates: "),
        (dict(meta={"family": "dice"}), "meta.family: None there, dice here"),
        (dict(sample=lambda seed: tokens(seed, rows=5)), "data: "),
        (
            dict(config=TransformerConfig(context=8, vocab=5, layers=3, d_model=16)),
            "config.layers: 2 there, 3",
        ),
    ],
)
def test_train_refuses_a_folder_of_another_run(complete_run, options, message):
    wanted = dict(config=CONFIG, sample=tokens, steps=STEPS, report_every=5, lr=1e-2) | options
    with pytest.raises(TvlensError, match=message):
        train(**wanted, folder=complete_run.folder, progress=False)


def test_train_names_the_step_of_an_infinite_loss(tmp_path):
    """Weights explode: the error names a step, and earlier checkpoints are valid."""
    with pytest.raises(TvlensError, match=r"(at step \d+: a lower lr|not finite at step)"):
        start_run(tmp_path, lr=1e25, schedule=constant, evaluate=None, checkpoints=[0])
    for step in load_run(tmp_path).steps:
        assert all(weight.isfinite().all() for weight in load_run(tmp_path).weights(step).values())


def test_train_names_the_step_of_a_bad_batch(tmp_path):
    config = TransformerConfig(context=9, inputs=2, layers=1, d_model=8)
    bad = step_seed(0, 7)

    def sample(seed):
        rng = np.random.default_rng(seed)
        targets = rng.normal(size=(3, 5))
        return rng.normal(size=(3, 5, 2)), targets * (math.nan if seed == bad else 1)

    with pytest.raises(TvlensError, match="the loss is nan at step 7"):
        train(config, sample, steps=20, folder=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (lambda model, step: {"kl": math.nan if step else 0.0}, "nan for 'kl' at step 1"),
        (lambda model, step: {"loss": 1.0}, "must not return 'loss'"),
    ],
)
def test_train_refuses_invalid_results_of_evaluate(tmp_path, evaluate, message):
    with pytest.raises(TvlensError, match=message):
        start_run(tmp_path, evaluate=evaluate)


def test_loss_of_a_regression_is_the_squared_error_at_inputs():
    config = TransformerConfig(context=9, inputs=2, layers=1, d_model=8)
    model = Transformer(config)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 5, 2, generator=rng), torch.randn(3, 5, generator=rng)
    total = 0.0
    for n in range(5):
        sequence = torch.zeros(3, 2 * n + 1, 3)
        for pair in range(n + 1):
            sequence[:, 2 * pair, :2] = x[:, pair]
            if pair < n:
                sequence[:, 2 * pair + 1, 2] = y[:, pair]
        total += ((model(sequence)[:, -1, 0] - y[:, n]) ** 2).mean().item() / 5
    assert compute_loss(model, (x, y)).item() == pytest.approx(total, rel=1e-5)


def test_train_learns_one_die_to_its_entropy(tmp_path):
    faces = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])

    def sample(seed):
        return torch.from_numpy(np.random.default_rng(seed).choice(5, (32, 9), p=faces))

    run = train(CONFIG, sample, steps=120, lr=1e-2, folder=tmp_path, progress=False)
    with torch.no_grad():
        log_q = run.transformer()(sample(1)[:, :8]).log_softmax(-1).double()
    kl = (torch.tensor(faces) * (torch.tensor(faces).log() - log_q)).sum(-1).mean()
    assert 0 <= kl < 0.005


def test_train_learns_one_regression_below_its_variance(tmp_path):
    config = TransformerConfig(context=15, inputs=2, layers=1, d_model=16, positions="learned")

    def sample(seed):
        x = np.random.default_rng(seed).normal(size=(32, 8, 2))
        return x, x @ np.array([1.0, -0.5])

    run = train(
        config, sample, steps=150, lr=1e-2, report_every=50, folder=tmp_path, progress=False
    )
    assert run.metrics[-1]["loss"] < 0.05 * 1.25


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (lambda seed: torch.rand(3, 5), "expected integers"),
        (lambda seed: torch.zeros(5, dtype=torch.long), "expected integers"),
        (lambda seed: torch.full((2, 4), 5), "token 5; there are 0 to 4"),
        (lambda seed: torch.full((2, 4), -1), "token -1; there are 0 to 4"),
        (lambda seed: torch.zeros(2, 10, dtype=torch.long), "9 positions are read"),
        (lambda seed: (tokens(0), tokens(0)), "needs tokens only"),
        (lambda seed: torch.randint(0, 5, (3, 9)), "two different batches for one seed"),
    ],
)
def test_train_refuses_invalid_batches(tmp_path, sample, message):
    with pytest.raises(TvlensError, match=message):
        start_run(tmp_path / "run", sample)
    assert not (tmp_path / "run").exists()


def test_bad_input_raises_one_line_errors(tmp_path):
    for options, message in [
        (dict(steps=0), "steps must be at least 1"),
        (dict(report_every=0), "report_every must be at least 1"),
        (dict(checkpoints="all"), "'log' or steps, not 'all'"),
        (dict(checkpoints=[30]), "at step 30 of 0 to 21"),
    ]:
        with pytest.raises(TvlensError, match=message):
            start_run(tmp_path / "run", **options)
    with pytest.raises(TvlensError, match="holds no training run"):
        load_run(tmp_path)
    config = TransformerConfig(context=9, inputs=2)
    with pytest.raises(TvlensError, match=r"sample must return \(inputs, targets\)"):
        train(config, tokens, steps=1, folder=tmp_path / "run")
    with pytest.raises(TvlensError, match=r"expected \[batch, pair, 2\]"):
        pairs = torch.rand(3, 5, 3), torch.rand(3, 5)
        train(config, lambda seed: pairs, steps=1, folder=tmp_path / "run")


@given(st.integers(1, 5000), st.floats(1e-5, 1.0))
def test_schedules_rise_and_fall_within_their_bounds(steps, peak):
    up_down = [triangular(step, steps, peak) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in up_down)
    assert up_down[-1] == pytest.approx(1e-5, rel=1e-6)
    turn = int(np.argmax(up_down))
    assert abs(turn + 1 - steps / 2) <= 1
    assert np.all(np.diff(up_down[: turn + 1]) >= 0) and np.all(np.diff(up_down[turn:]) <= 0)
    wave = [cosine(step, steps, peak) for step in range(steps)]
    assert wave[0] == peak and np.all(np.diff(wave) <= 0) and wave[-1] >= 0
    checkpoints = log_steps(steps)
    assert (
        checkpoints[0] == 0 and checkpoints[-1] == steps and checkpoints == sorted(set(checkpoints))
    )
    assert all(later <= 2 * step for step, later in itertools.pairwise(checkpoints[1:]))


def test_step_seeds_are_unique():
    seeds = {step_seed(seed, step) for seed in range(5) for step in range(2000)}
    assert len(seeds) == 10_000 and max(seeds) < 2**63
