"""`retrieval_check` on tiny models: loops over single prompts, planted states, bad input."""

import pytest
import tiny
import torch

import tvlens as tv
from tvlens import Task, TvlensError
from tvlens.bayes import RetrievalCheck, retrieval_check
from tvlens.tasks import Template

WORDS = [a + b for a in "bcdfghjk" for b in ("an", "el", "ip")]
TASKS = [Task(c, [(w, c + w) for w in WORDS]) for c in "xyz"]
OTHERS = [Task(c, [(w, c + w) for w in WORDS]) for c in "uvw"]
TEMPLATE = "{x}:{y}\n"
SMALL = dict(others=OTHERS, template=TEMPLATE, shots=3, contexts=4, count=30, repeats=2, null=1)


@pytest.fixture(scope="module")
def check():
    return retrieval_check(tiny.model("llama"), TASKS, **SMALL)


def test_vectors_equal_those_of_extract(check):
    model = tiny.model("llama")
    for k, task in enumerate(TASKS):
        train, _, _ = task.split(seed=0)
        options = {"template": TEMPLATE, "shots": 3, "contexts": 4, "seed": 0}
        wanted = tv.extract(model, train, **options).values
        torch.testing.assert_close(check.vectors[k], wanted)


def test_train_validation_and_test_inputs_are_disjoint(check):
    parts = [set(check.settings[name]) for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(WORDS)


def test_query_delimiter_equals_run_with_cache_of_single_prompts():
    """The reference runs one prompt at a time through run_with_cache."""
    from tvlens.bayes.mixtures.query_delimiter import QueryDelimiter
    from tvlens.tasks import build

    for name in ("gpt2", "llama", "native"):
        model = tiny.model(name)
        delimiter = QueryDelimiter(model, "resid_post", 3, False)
        template = Template.of(TEMPLATE)
        prompts = [
            build(model.tokenizer, template, TASKS[0].pairs[:i], "fan") for i in (0, 3, 1, 2)
        ]
        answers = torch.tensor([[5, 9], [7, 8], [100, 3], [1, 2]])
        states, probabilities = delimiter.read_states(prompts, answers)
        vectors = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
        injected = delimiter.replace_states(prompts, answers, 1, vectors)
        assert torch.allclose(delimiter.replace_states(prompts, answers, 1, None), probabilities)
        several = torch.stack([vectors, vectors.flip(0), -vectors])
        swept = delimiter.sweep_layers(prompts, answers[:, 0], several)
        for layer, (probability, values) in enumerate(zip(swept, several, strict=True)):
            wanted = delimiter.replace_states(prompts, answers, layer, values)[:, 0]
            torch.testing.assert_close(probability.double(), wanted, rtol=1e-4, atol=1e-8)
        for i, prompt in enumerate(prompts):
            tokens = torch.tensor([prompt.tokens])
            logits, cache = model.run_with_cache(tokens)
            wanted = torch.stack([cache["resid_post", l][0, -1] for l in range(3)])
            torch.testing.assert_close(states[:, i], wanted, rtol=1e-4, atol=1e-5)
            p = logits[0, -1].double().softmax(-1)[answers[i]]
            torch.testing.assert_close(probabilities[i], p, rtol=1e-4, atol=1e-8)

            def replace_state(value, hook, vector=vectors[i]):
                return torch.cat([value[:, :-1], vector.expand(1, 1, -1)], 1)

            logits = model.run_with_hooks(
                tokens, fwd_hooks=[("blocks.1.hook_resid_post", replace_state)]
            )
            p = logits[0, -1].double().softmax(-1)[answers[i]]
            torch.testing.assert_close(injected[i], p, rtol=1e-4, atol=1e-8)


def test_weights_and_posteriors_sum_to_one(check):
    k = len(TASKS)
    assert check.weights.shape == (3, 30, k) and check.posterior.shape == (3, 30, k)
    ones = torch.ones(3, 30, dtype=torch.float64)
    torch.testing.assert_close(check.weights.sum(-1), ones)
    torch.testing.assert_close(check.posterior.sum(-1), ones)
    assert (
        check.squared_residual <= check.squared_norm * (1 + 1e-9)
    ).all()  # the mean vector leaves all of it
    assert check.layer == int(check.layer_scores.argmax())
    counts = torch.nn.functional.one_hot(check.sources, k).sum(1)
    clear = (counts + 1) / (3 + k)
    assert (check.posterior[0] - clear).abs().max() < 0.01  # little noise, clear labels
    assert set(check.conditions) >= {"combination", "most likely task", "nothing"}
    assert check.injected_probability.shape == (6, len(check.injected_queries), k)


class PlantedCombination:
    """Replace the states of one layer with mean + query vector + combination of task vectors.

    The weights are (n_k + 1) / (n + K), with n_k labels of task k among the tokens so far.
    """

    def __init__(self, model, layer, follows=True):
        generator = torch.Generator().manual_seed(3)
        self.tokens, self.follows = None, follows
        self.theta = torch.randn(3, 32, generator=generator)
        self.by_token = torch.randn(384, 32, generator=generator)
        tokenizer = model.tokenizer
        self.colon = tokenizer(":", add_special_tokens=False)["input_ids"][0]
        self.labels = [tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in "xyz"]
        model.register_forward_pre_hook(self.store_tokens, with_kwargs=True)
        model.blocks[layer].hook_resid_post.add_hook(self.add_combination, is_permanent=True)

    def store_tokens(self, module, args, options):
        self.tokens = args[0] if args else options["input"]

    def weights(self, row, stop):
        label_positions = [
            i + 1 for i, t in enumerate(row[:stop]) if t == self.colon and i + 1 < stop
        ]
        labels = [self.labels.index(row[i]) for i in label_positions if row[i] in self.labels]
        counts = torch.bincount(torch.tensor(labels, dtype=torch.long), minlength=3)
        if not self.follows:  # as unequal, but it looks at another task's labels in every prompt
            counts = counts[torch.randperm(3, generator=torch.Generator().manual_seed(sum(row)))]
        return (counts + 1) / (len(labels) + 3)

    def add_combination(self, value, hook):
        edited = value.clone()
        for b, row in enumerate(self.tokens.tolist()):
            for position in [i for i, t in enumerate(row) if t == self.colon]:
                query = self.by_token[row[position - 2 : position]].sum(0)
                edited[b, position] = 5 + query + self.weights(row, position + 1) @ self.theta
        return edited


@pytest.mark.parametrize("follows", [True, False])
def test_retrieval_check_recovers_planted_combinations(follows):
    model = tiny.model.__wrapped__("native")  # not the shared one
    PlantedCombination(model, 1, follows)
    result = retrieval_check(model, TASKS, **(SMALL | {"count": 60, "contexts": 12}))
    weights = result.weight_agreement["proportions"].at_layer(1)
    null = result.null["rotated vectors", "residual share"][1]
    if follows:
        assert weights.correlation > 0.99
        # Corners are prompts of one task, so a corner's weight is its share of demonstrations.
        shares = torch.nn.functional.one_hot(result.sources, 3).double().mean(1)
        assert (result.weights[1] - shares).abs().max() < 0.1
        assert result.residual_share.values[1] < 0.02 < 0.5 < null.min()
        assert result.pure_residual_share.values[1] < 0.02
        slopes = result.position_slopes["proportions"]
        torch.testing.assert_close(slopes, torch.full_like(slopes, 1 / 6), atol=0.01, rtol=0)
    else:
        assert weights.correlation_interval[0] < 0.25 and weights.correlation < 0.5
        assert weights.distance > 0.8 * weights.null_distance.mean()


def test_retrieval_check_is_saved_plotted_and_reproducible(check, tmp_path):
    check.save(tmp_path / "c.safetensors")
    loaded = RetrievalCheck.load(tmp_path / "c.safetensors")
    assert repr(loaded) == repr(check) and loaded.settings == check.settings
    pandas_equal = loaded.to_dataframe().equals(check.to_dataframe())
    assert pandas_equal and len(check.to_dataframe()) == 4 * 3 + 3 + 6
    assert "tvlens-vega" in check._repr_html_()
    repeated = retrieval_check(tiny.model("llama"), TASKS, **SMALL)
    assert torch.equal(repeated.weights, check.weights) and torch.equal(
        repeated.injected_probability, check.injected_probability
    )
    assert torch.equal(repeated.null_residual_share, check.null_residual_share)
    with pytest.raises(TvlensError, match="unknown control"):
        check.null["rotated", "correlation"]
    with pytest.raises(TvlensError, match="unknown measure"):
        check.null["rotated vectors", "angle"]


def test_retrieval_check_of_two_tasks_is_plotted():
    result = retrieval_check(tiny.model("gpt2"), TASKS[:2], **SMALL)
    assert result.weights.shape[-1] == 2
    assert "tvlens-vega" in result._repr_html_()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(tasks=TASKS[:1]), "at least two tasks"),
        (dict(tasks=["gerund", "gerunds"]), "did you mean 'gerund'"),
        (dict(tasks=["country-capital", "gerund"]), "share no input"),
        (dict(others=OTHERS[:2]), "at least 3"),
        (dict(others=[*OTHERS, TASKS[0]]), "'x' is both a task"),
        (dict(shots=9), "9 shots and a query need 10"),
        (dict(shots=0), "0 shots"),
        (dict(noise=1.0), "noise is 1"),
        (dict(count=1), "count is 1"),
        (dict(null=0), "null is below 1"),
        (dict(noise_models={}), "no noise model"),
        (dict(template=" {x}: {y}\n"), "begin with the same token"),
        (dict(site="residue"), "residue"),
    ],
)
def test_bad_input_raises_one_line_errors(change, message):
    options = SMALL | change
    tasks = options.pop("tasks", TASKS)
    with pytest.raises(TvlensError, match=message):
        retrieval_check(tiny.model("llama"), tasks, **options)


@pytest.mark.slow
@pytest.mark.xdist_group("real")
def test_weights_of_smollm2_follow_proportions_of_verb_forms(smollm2):
    tasks = [Task.load(name) for name in ("present-past", "gerund", "third-person")]
    verbs = [x for x, _ in tasks[0] if all(x in dict(task) for task in tasks)][:30]
    tasks = [task.subset(i for i, (x, _) in enumerate(task) if x in verbs) for task in tasks]
    others = ("lower-upper", "country-capital", "animal-class")
    options = dict(others=others, count=20, contexts=6, repeats=2, null=2)
    result = retrieval_check(smollm2, tasks, **options)
    weights = result.weight_agreement["proportions"].at_layer(result.layer)
    assert 18 <= result.layer <= 23
    assert weights.correlation > 0.85
    assert weights.distance_interval[1] < weights.uniform_distance
    assert (
        result.residual_share.interval[result.layer, 1]
        < result.null["other tasks", "residual share"][result.layer].min()
    )
    injection = result.injection_agreement
    assert injection["combination"].distance < injection["most likely task"].distance - 0.03
