"""One figure of every kind, with hostile text in every place."""

import numpy as np
import torch

from tvlens import viz

HOSTILE = "</script><img src=x onerror=alert(1)>"
TOKENS = ["<bos>", "The", " capital", " of", " France", " is", "\n", HOSTILE]


def widgets() -> dict[str, viz.Figure]:
    torch.manual_seed(0)
    n = len(TOKENS)
    pattern = torch.randn(4, n, n).tril().softmax(-1).tril()
    vocabulary = [*TOKENS, " Paris", " London", "&amp;", "<s>", *(f" w{i}" for i in range(20))]
    logits = torch.randn(n, len(vocabulary)).log_softmax(-1)
    labels = ["Paris", "Rome", HOSTILE]
    return {
        "ColoredTokens": viz.colored_tokens(TOKENS, torch.randn(n), title="Projection " + HOSTILE),
        "ColoredTokensMulti": viz.colored_tokens_multi(
            TOKENS, torch.randn(n, 3).softmax(-1), labels, title="Posterior over tasks"
        ),
        "AttentionHeads": viz.attention_heads(
            pattern, TOKENS, head_names=["9.6", "9.9", "10.0", "11.2"], title="Top heads"
        ),
        "TokenLogProbs": viz.token_log_probs(
            torch.arange(n), logits, vocabulary, top_k=5, title="What the model predicts"
        ),
        "TextNeuronActivations": viz.text_neuron_activations(
            TOKENS,
            torch.randn(n, 3, 2),
            neuron_name="Vector",
            neuron_labels=["task", "random"],
            title="Projection on the task vector, by layer",
        ),
        "TopkTokens": viz.topk_tokens(
            vocabulary,
            [torch.randn(2, len(vocabulary), 6), torch.randn(2, len(vocabulary), 6)],
            column_name="Layer",
            layer_name="Vector",
            layer_labels=["task", "random"],
            sample_labels=["prompt A", "prompt B"],
            title="What the vector writes",
        ),
    }


def charts() -> dict[str, viz.Figure]:
    rng = np.random.default_rng(0)
    layers = np.arange(30)
    accuracy = 0.9 / (1 + np.exp(-(layers - 13) / 2)) * (1 - (layers > 24) * 0.3)
    low, high = accuracy - 0.06, accuracy + 0.06
    words = ["paris", "rome", "london", "berlin", "madrid", "tokyo", "cairo", "lima", "oslo"]
    words += ["dog", "cat", "horse", "cow"]
    cloud = rng.normal(size=(14, 2)) + np.array([[2.0 * (i < 9), 0] for i in range(14)])
    tokens = [
        "<bos>",
        "A",
        " photo",
        " of",
        " a",
        " dog",
        " in",
        " the",
        " snow",
        ":",
        " a",
        HOSTILE,
    ]
    table = [f"vector {i}" for i in range(6)]
    cosine = np.corrcoef(rng.normal(size=(6, 10)))
    return {
        "lines": viz.lines(
            {"task vector": accuracy, "function vector": accuracy * 0.8, HOSTILE: accuracy * 0.55},
            bands={"task vector": (low, high)},
            rules={"few-shot": 0.93, "zero-shot": 0.03, "random vector": 0.02},
            marks={"chosen layer, test": (18, 0.81, 0.74, 0.87)},
            x_title="layer",
            y_title="accuracy",
            y_domain=(0, 1),
            title="Accuracy after adding the vector, by layer",
            caption="Shaded: 95% bootstrap interval over prompts. " + HOSTILE,
        ),
        "heatmap": viz.heatmap(
            rng.normal(size=(12, 12)),
            rows=[f"{i}" for i in range(12)],
            columns=tokens,
            row_title="layer",
            column_title="token",
            value_title="logit difference",
            diverging=True,
            annotate=False,
            title="Patching by layer and position",
        ),
        "cosine": viz.heatmap(
            cosine,
            rows=table,
            columns=table,
            value_title="cosine",
            diverging=True,
            title="Cosine between vectors",
        ),
        "heads": viz.heatmap(
            np.where(rng.random((30, 9)) < 0.05, np.nan, rng.random((30, 9)) ** 3),
            rows=range(30),
            columns=range(9),
            row_title="layer",
            column_title="head",
            value_title="indirect effect",
            title="Heads",
        ),
        "scatter": viz.scatter(
            cloud,
            labels=[*words, HOSTILE],
            groups=["city"] * 9 + ["animal"] * 5,
            x_title="first component",
            y_title="second component",
            title="Map of vectors",
        ),
        "intervals": viz.intervals(
            [
                ("task vector", 0.81, 0.74, 0.87),
                ("random vector of the same norm", 0.03, -0.01, 0.07),
                ("shuffled labels", 0.12, 0.06, 0.17),
                (HOSTILE, 0.2, 0.1, 0.3),
            ],
            groups=["ours", "control", "control", "control"],
            x_title="accuracy",
            title="Against controls",
        ),
        "histogram": viz.histogram(
            rng.normal(1.2, 0.03, size=1000),
            mark=0.83,
            mark_label="observed",
            x_title="smallest principal angle (radians)",
            title="Against random subspaces",
        ),
        "curves": viz.lines(
            {f"layer {i}": np.cumsum(rng.normal(size=200)) for i in range(9)},
            x=np.arange(200) * 100,
            x_title="training step",
            y_title="loss",
            title="Many curves",
        ),
    }


def page() -> viz.Page:
    table = viz.table(
        [
            {"method": "state", "accuracy": 0.81234, "n": 120, "significant": True},
            {"method": HOSTILE, "accuracy": 0.0312, "n": 120, "significant": False},
        ],
        title="Summary",
    )
    small = charts()
    return viz.Page(
        "Singular to plural in SmolLM2-135M",
        summary=[
            "We asked where the model keeps the task “singular to plural” after six examples.",
            "A vector read at layer 18 restores 81% of few-shot accuracy (95% interval 74 to 87%).",
            "A random vector of the same norm restores 3%: the effect is specific. " + HOSTILE,
        ],
        sections=[
            viz.Section(
                "Does it work?", "Accuracy on 120 held-out pairs.", [small["lines"], table]
            ),
            viz.Section("Where is it?", "", [small["heatmap"], small["heads"]]),
            viz.Section(
                "What shape does it have?",
                "Every vector is a point.\n\nAngles are compared with random subspaces.",
                [
                    small["scatter"],
                    viz.row(small["cosine"], small["histogram"]),
                    viz.row(small["intervals"], small["curves"]),
                ],
            ),
            viz.Section("Token by token", "", list(widgets().values())),
        ],
        settings={"model": "smollm2-135m", "seed": 0, "shots": 6, "versions": {"torch": "2.13"}},
    )
