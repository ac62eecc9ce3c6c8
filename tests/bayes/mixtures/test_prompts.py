"""Mixed prompts: compositions, demonstrations and label likelihoods."""

from collections import Counter

import pytest
import tiny
import torch

from tvlens import Task, TvlensError
from tvlens.bayes import (
    align_tasks,
    build_mixed_prompts,
    build_pure_prompts,
    label_likelihood,
)
from tvlens.bayes.mixtures.prompts import (
    answer_token_ids,
    distinguishable_queries,
    enumerate_compositions,
)
from tvlens.tasks import TEMPLATES, Template, build

WORDS = [a + b for a in "bcdfghjk" for b in ("an", "el", "ip")]


@pytest.fixture
def tasks():
    return align_tasks([Task(c, [(w, c + w) for w in WORDS]) for c in "xyz"])


def sample_mixtures(tasks, **options):
    options = {"shots": 3, "count": 40} | options
    return build_mixed_prompts(tiny.tokenizer(), tasks, TEMPLATES["qa"], **options)


def test_align_tasks_keeps_common_inputs_in_one_order():
    one = Task("one", [("a", "1"), ("b", "2"), ("c", "3")])
    two = Task("two", [("c", "6"), ("d", "7"), ("b", "5")])
    aligned = align_tasks([one, two])
    assert [task.pairs for task in aligned] == [(("b", "2"), ("c", "3")), (("b", "5"), ("c", "6"))]


def test_mixed_prompts_contain_every_composition_equally_often(tasks):
    mixtures = sample_mixtures(tasks)
    counts = Counter(tuple(m.sources.count(k) for k in range(3)) for m in mixtures)
    assert counts == dict.fromkeys(enumerate_compositions(3, 3), 4)
    assert len({m.sources for m in mixtures}) > 15  # orders differ
    for m in mixtures:
        query = tasks[0].pairs[m.query][0]
        inputs = [x for x, _ in m.demonstrations]
        assert len({*inputs, query}) == 4
        assert [y for _, y in m.demonstrations] == [
            "xyz"[k] + x for k, x in zip(m.sources, inputs, strict=True)
        ]
        text = "".join(f"Q: {x}\nA: {y}\n\n" for x, y in m.demonstrations)
        assert m.prompt.text == f"{text}Q: {query}\nA:"
    assert max(Counter(m.query for m in mixtures).values()) == 2  # 40 prompts, 24 queries
    assert sample_mixtures(tasks) == mixtures
    assert sample_mixtures(tasks, seed=1) != mixtures
    assert {m.query for m in sample_mixtures(tasks, queries=[3, 5])} == {3, 5}


def test_build_pure_prompts_varies_labels_only(tasks):
    prompts = build_pure_prompts(tiny.tokenizer(), tasks, TEMPLATES["qa"], shots=3, queries=[0, 7])
    assert [(m.query, m.sources[0]) for m in prompts] == [(q, k) for q in (0, 7) for k in range(3)]
    for three in (prompts[:3], prompts[3:]):
        assert len({tuple(x for x, _ in m.demonstrations) for m in three}) == 1


def test_label_likelihood_spreads_noise_over_all_labels():
    tasks = align_tasks([Task("a", [("p", "1"), ("q", "2")]), Task("b", [("p", "1"), ("q", "3")])])
    mixtures = sample_one_shot_mixtures(tasks)
    likelihood = label_likelihood(tasks, mixtures, noise=0.2)
    for m, rows in zip(mixtures, likelihood, strict=True):
        (pair,), (row,) = m.demonstrations, rows.tolist()
        # Three labels in all; "1" fits both tasks.
        wanted = [0.8 if dict(task.pairs)[pair[0]] == pair[1] else 0.1 for task in tasks]
        assert row == pytest.approx(wanted)
    ambiguous = [m for m in mixtures if m.demonstrations[0] == ("p", "1")]
    assert (label_likelihood(tasks, ambiguous, noise=0.0) == 1).all()


def sample_one_shot_mixtures(tasks):
    return sample_mixtures(tasks, shots=1, count=12)


def test_distinguishable_queries_have_different_first_answer_tokens():
    tokenizer = tiny.tokenizer()
    tasks = align_tasks(
        [Task("a", [("p", "cat"), ("q", "x")]), Task("b", [("p", "cats"), ("q", "y")])]
    )
    template = Template("{x}:{y}\n")
    answers = answer_token_ids(tokenizer, tasks, template)
    wanted = [
        [build(tokenizer, template, [], x, dict(t.pairs)[x]).answer[0] for t in tasks] for x in "pq"
    ]
    assert answers.tolist() == wanted
    assert distinguishable_queries(torch.tensor([[1, 1], [1, 2], [3, 2]])) == [1, 2]


def test_bad_input_raises_one_line_errors(tasks):
    one = Task("one", [("a", "1")])
    with pytest.raises(TvlensError, match="at least two tasks"):
        align_tasks([one])
    with pytest.raises(TvlensError, match="same name"):
        align_tasks([one, one])
    with pytest.raises(TvlensError, match="one, two share no input"):
        align_tasks([one, Task("two", [("b", "1")])])
    with pytest.raises(TvlensError, match="have the same output for all common inputs"):
        align_tasks([one, Task("two", [("a", "1"), ("b", "3")])])
    with pytest.raises(TvlensError, match="24 shots and a query need 25"):
        sample_mixtures(tasks, shots=24)
    with pytest.raises(TvlensError, match="noise is 1"):
        label_likelihood(tasks, [], noise=1.0)
    other = align_tasks([Task("a", [("p", "1")]), Task("b", [("p", "2")])])
    with pytest.raises(TvlensError, match="belongs to none of the tasks"):
        label_likelihood(other, sample_mixtures(tasks))
