"""A small instance of every result type, for tests of figures and files."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import tiny
import torch

import tvlens as tv
from tvlens import bayes, geometry, matrices
from tvlens.training import (
    FinetunedEncoder,
    Run,
    Transformer,
    TransformerConfig,
    to_transformer_lens,
)
from tvlens.vectors import TaskVector, VectorReport
from tvlens.vlm import VLMRun

HOSTILE = "</script><img src=x onerror=alert(1)>"


def make_every_result(folder: Path) -> dict[str, object]:
    """Make one result of every type, by name; some are stored in the folder."""
    torch.manual_seed(0)
    parts = (
        _vector_results(),
        _patching_results(),
        _geometry_results(),
        _matrix_results(),
        _bayes_results(),
        _training_results(folder),
    )
    return {name: result for part in parts for name, result in part.items()}


def _vector_results() -> dict[str, object]:
    conditions = {
        name: dict(name=name, count=40, first=p, full=p / 2)
        | dict(first_interval=(max(0, p - 0.1), min(1, p + 0.1)), full_interval=(0, 1))
        for name, p in {"zero_shot": 0.02, "vector": 0.8, "few_shot": 0.9, "random": 0.0}.items()
    }
    by_layer = [0.0] * 6 + [0.4, 0.8, 0.7, 0.1]
    ends = [[max(0, a - 0.1), min(1, a + 0.1)] for a in by_layer]
    plain = dict(task=HOSTILE, layer=7, by_layer=by_layer, by_layer_interval=ends)
    effects = torch.randn(8, 6).tolist()
    heads = TaskVector(torch.randn(8, 16), "z", {"effects": effects, "heads": [[2, 3], [7, 0]]})
    return {
        "TaskVector": TaskVector(torch.randn(10, 16), "resid_post", {"task": HOSTILE}),
        "TaskVector of heads": heads,
        "VectorReport": VectorReport.from_json(plain | dict(conditions=conditions, meta={})),
    }


def _patching_results() -> dict[str, object]:
    tokens = ["<s>", "Q", ":", " cat", "\n", "A", ":", HOSTILE]
    layers, positions = list(range(12)), list(range(8))

    def patch_result(axes: tuple[str, ...], tokens=tokens, **more) -> tv.PatchResult:
        all_coordinates = dict(layer=layers, position=positions, head=list(range(4)))
        coordinates = {axis: all_coordinates[axis] for axis in axes}
        shape = [len(c) for c in coordinates.values()]
        base = torch.zeros(5)
        values = torch.randn(*shape, 5)
        return tv.PatchResult(values, axes, coordinates, base, None, "z", tokens, tokens, **more)

    pattern = torch.rand(8, 8).tril()
    patterns = {f"L{i}H3": pattern / pattern.sum(-1, keepdim=True) for i in (2, 5)}
    return {
        "PatchResult by layer": patch_result(("layer",)),
        "PatchResult by layer and position": patch_result(("layer", "position")),
        "PatchResult by head": patch_result(("layer", "head"), attention=patterns),
        "PatchResult by head and position": patch_result(("layer", "head", "position")),
        "PatchResult of one patch": patch_result(()),
    }


def _geometry_results() -> dict[str, object]:
    task, token = torch.arange(3).repeat_interleave(40), torch.arange(4).repeat(30)
    h = torch.randn(3, 16)[task] + torch.randn(4, 16)[token] + torch.randn(120, 16)
    over = h[:, None] + torch.randn(120, 5, 16)
    a, b = (tv.Subspace.random(64, 3, seed=seed) for seed in (0, 1))
    return {
        "Subspace": a,
        "Orthogonality": a.orthogonality(b, null=200),
        "SilhouetteTest": geometry.silhouette_test(h, task, null=50),
        "SimilarityTable": geometry.similarity_table({"a": h, "b": h.relu(), HOSTILE: h.cos()}),
        "Effects": geometry.balanced_effects(h, task, token),
        "VarianceDecomposition": geometry.two_way_variance(h, task, token, resamples=20),
        "VarianceDecomposition by position": geometry.between_cell_variance(
            over, task, token[:, None].expand(-1, 5), resamples=20
        ),
    }


def _matrix_results() -> dict[str, object]:
    weight, labels = torch.randn(12, 12), torch.arange(90) % 3
    base = torch.randn(2, 90, 12) + torch.randn(3, 12)[labels]
    tuned = base[1] @ weight + 0.1 * torch.randn(90, 12)
    decide = torch.randn(12, 3)
    rows = (torch.arange(45), torch.arange(45, 65), torch.arange(65, 90))
    whole = matrices.Examples(base, tuned, labels)
    parts, options = [whole.subset(r) for r in rows], dict(head=lambda y: y @ decide.to(y))
    report = matrices.evaluate(*parts, **options)
    matrix = report.refit(parts[0])
    moments = matrices.LayerMoments(
        (0, 1), (0, 1), (matrices.PairMoments().update(base, torch.stack([tuned, tuned.relu()])),)
    )
    fitted = [
        replace(matrix, layer=layer, target=1, meta={"predicted_r2": 0.4 + 0.2 * layer})
        for layer in (0, 1)
    ]
    distance = matrices.WeightDistance(1.5, 0.02, torch.rand(6), torch.rand(6) / 20, ())
    few = dict(sizes=[10, 45], seeds=(0,), baselines=("ridge_probe", "permuted"))
    return {
        "PairMoments": matrices.PairMoments().update(base[0], tuned),
        "TaskMatrix": matrix,
        "TaskMatrices": matrices.TaskMatrices(tuple(fitted)),
        "MatrixReport": report,
        "RankCurve": matrices.rank_curve(matrix, parts[1], **options),
        "LearningCurve": matrices.learning_curve(*parts, **few, **options),
        "LayerMap": matrices.layer_map(moments),
        "WeightDistance": distance,
    }


@functools.cache
def _dice() -> tuple[object, object]:
    family = bayes.Dice(tasks=3, faces=4, minor=4, seed=1)
    config = TransformerConfig(context=17, vocab=4, layers=2, d_model=32, heads=2)
    return family, to_transformer_lens(config, Transformer(config, seed=1).state_dict())


def _bayes_results() -> dict[str, object]:
    family, model = _dice()
    both, quick = (model, family), dict(sequences=12)
    learner = bayes.learner_subspace(*both, max_rank=2, restarts=2, null=2, **quick)
    words = [a + b for a in "bcdfghjk" for b in ("an", "el", "ip")]
    tasks = [tv.Task(c, [(w, c + w) for w in words]) for c in "xyzuvw"]
    small = dict(template="{x}:{y}\n", shots=3, contexts=4, count=30, repeats=2, null=1)
    mixed = bayes.retrieval_check(tiny.model("llama"), tasks[:3], others=tasks[3:], **small)
    return {
        "Prediction": bayes.retrieval(family, family.sample(6, 16, seed=0).tokens),
        "Behaviour": bayes.behaviour(*both, **quick),
        "Representation": bayes.representation(*both, observations=[4, 8, 16], per_cell=8, null=3),
        "PosteriorWeights": bayes.posterior_weights(*both, sequences=60, resamples=20),
        "Injection": bayes.injection(*both, **quick),
        "Dissociation": bayes.dissociation(*both, learner=learner.subspace, pairs=12, null=2),
        "SimplexMap": bayes.simplex_map(*both, resolution=3, sequences=6),
        "Ablation": bayes.ablation(*both, null=2, **quick),
        "LearnerSubspace": learner,
        "StatisticsRegression": bayes.statistics_regression(
            *both, learner.subspace, sequences=60, null=2
        ),
        "PhaseBoundary": bayes.solve_phase_boundary(
            lambda minor, mass: bayes.Dice(minor=minor, minor_mass=mass),
            minors=[1, 8],
            lengths=[4, 8],
            sequences=20,
        ),
        "PrefixDependence": bayes.prefix_dependence(
            "learner", bayes.Dyck(tasks=2, symbols=2, pairs=3), length=12, sequences=60, null=2
        ),
        "NovelTasks": bayes.novel_tasks(*both, tasks=6, sequences=8, null=10),
        "RetrievalCheck": mixed,
        "Agreement": next(iter(mixed.weight_agreement.values())),
        "Agreement at a layer": next(iter(mixed.weight_agreement.values())).at_layer(0),
    }


def _training_results(folder: Path) -> dict[str, object]:
    records = [dict(step=s, loss=1 / (1 + s), lr=0.1, seconds=s, KL=2 / (1 + s)) for s in range(9)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    epochs = [dict(epoch=e, loss=1 / e, validation_loss=1.2 / e, accuracy=0.2 * e) for e in (1, 2)]
    parts = dict(new_artist=0.6, new_categories=0.3, new_artist_and_category=0.2)
    return {
        "Run": Run(folder, TransformerConfig(context=8, vocab=4), {"steps": 8}),
        "FinetunedEncoder": FinetunedEncoder(folder, {"base": "b", "data": "d"}, epochs),
        "VLMRun": VLMRun(folder, {"epochs": 2}, [e | parts for e in epochs]),
    }
