import pytest
import tiny
import torch

import tvlens as tv
from tvlens import TaskVector, TvlensError
from tvlens.models.forward import Batch, run
from tvlens.tasks import Template, build
from tvlens.vectors import Phases, phases, top_tokens
from tvlens.vectors.logit_lens import logit_lens, vector_logits

pytestmark = pytest.mark.tl3

WORDS = [{"input": ("cat",), "task": ("plural", "number"), "answer": ("cats",)}] * 2


@pytest.fixture
def prompts(causal):
    template = Template.of("qa")
    return [build(causal.tokenizer, template, [], word, "cats") for word in ("cat", "dogs")]


def test_phases_of_the_last_layer_equal_ranks_of_the_logits(causal, prompts):
    """The reference counts ranks of the model's logits."""
    result = phases(causal, prompts, WORDS)
    assert result.closeness.shape == (3, causal.cfg.n_layers, 2)
    for i, prompt in enumerate(prompts):
        logits = run(causal, Batch.of(causal, [prompt]))[0, -1]
        for g, words in enumerate(WORDS[i].values()):
            ids = [
                causal.tokenizer(" " + w, add_special_tokens=False)["input_ids"][0] for w in words
            ]
            rank = min(1 + int((logits > logits[token]).sum()) for token in ids)
            assert result.closeness[g, -1, i] == pytest.approx(1 / rank)


def test_logit_lens_equals_transformer_lens(causal, prompts):
    tool = pytest.importorskip("transformer_lens.tools.analysis.logit_lens")
    states = torch.randn(5, causal.cfg.d_model, generator=torch.Generator().manual_seed(0))
    try:
        wanted = tool.logit_readout(causal, states, return_type="logits").values
    except ValueError as error:
        pytest.skip(f"the library's lens does not read this model: {error}")
    torch.testing.assert_close(logit_lens(causal, states), wanted, atol=1e-4, rtol=1e-4)


def test_phases_detects_a_planted_order(tmp_path):
    closeness = torch.zeros(3, 9, 4, dtype=torch.float64)
    for group, layer in enumerate((1, 4, 8)):
        closeness[group, layer] = torch.tensor([1.0, 0.5, 1.0, 0.5])
    result = Phases(("input", "task", "answer"), closeness)
    assert result.peaks == [1, 4, 8] and "task peaks at layer 4" in repr(result)
    low, high = result.interval[1, 4].tolist()
    assert 0.5 <= low < 0.75 < high <= 1
    table = result.to_dataframe()
    assert len(table) == 27 and table["value"].max() == 0.75
    result.save(tmp_path / "phases.safetensors")
    loaded = Phases.load(tmp_path / "phases.safetensors")
    assert loaded.groups == result.groups and torch.equal(loaded.closeness, closeness)
    assert "reciprocal rank" in result._repr_html_()


def test_bad_input_raises_one_line_errors(causal, prompts):
    with pytest.raises(TvlensError, match="1 entries of words for 2 prompts"):
        phases(causal, prompts, WORDS[:1])
    with pytest.raises(TvlensError, match="words of the same groups: input"):
        phases(causal, prompts, [WORDS[0], {"input": ("a",)}])


def test_vector_logits_of_the_last_state_equal_the_model_logits(causal):
    """The vector is the last state of a prompt."""
    tokens = torch.tensor(tiny.ragged("text", (6,)))
    with torch.no_grad():
        logits, cache = causal.run_with_cache(tokens)
    values = torch.stack([cache["resid_post", l][0, -1] for l in range(3)])
    vector = TaskVector(values, meta={"model": tv.models.model_name(causal)})
    torch.testing.assert_close(vector_logits(causal, vector)[-1], logits[0, -1])
    tops = top_tokens(causal, vector, k=3)
    assert len(tops) == 3 and all(len(row) == 3 for row in tops)
    assert tops[-1][0][1] == pytest.approx(float(logits[0, -1].softmax(-1).max()), rel=1e-4)
