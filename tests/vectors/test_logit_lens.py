import pytest
import torch

from tvlens import TvlensError
from tvlens.models.forward import Batch, run
from tvlens.tasks import Template, build
from tvlens.vectors import Phases, phases
from tvlens.vectors.logit_lens import logit_lens

pytestmark = pytest.mark.tl3

WORDS = [{"input": ("cat",), "task": ("plural", "number"), "answer": ("cats",)}] * 2


@pytest.fixture
def prompts(causal):
    form = Template.of("qa")
    return [build(causal.tokenizer, form, [], word, "cats") for word in ("cat", "dogs")]


def test_the_last_layer_is_what_the_model_says(causal, prompts):
    """Ranks of the model's own logits, counted one by one."""
    found = phases(causal, prompts, WORDS)
    assert found.closeness.shape == (3, causal.cfg.n_layers, 2)
    for i, prompt in enumerate(prompts):
        logits = run(causal, Batch.of(causal, [prompt]))[0, -1]
        for g, words in enumerate(WORDS[i].values()):
            ids = [
                causal.tokenizer(" " + w, add_special_tokens=False)["input_ids"][0] for w in words
            ]
            rank = min(1 + int((logits > logits[one]).sum()) for one in ids)
            assert found.closeness[g, -1, i] == pytest.approx(1 / rank)


def test_states_are_read_as_the_librarys_lens_reads_them(causal, prompts):
    tool = pytest.importorskip("transformer_lens.tools.analysis.logit_lens")
    states = torch.randn(5, causal.cfg.d_model, generator=torch.Generator().manual_seed(0))
    try:
        wanted = tool.logit_readout(causal, states, return_type="logits").values
    except ValueError as error:
        pytest.skip(f"the library's lens does not read this model: {error}")
    torch.testing.assert_close(logit_lens(causal, states), wanted, atol=1e-4, rtol=1e-4)


def test_a_planted_order_is_seen(tmp_path):
    closeness = torch.zeros(3, 9, 4, dtype=torch.float64)
    for group, layer in enumerate((1, 4, 8)):
        closeness[group, layer] = torch.tensor([1.0, 0.5, 1.0, 0.5])
    found = Phases(("input", "task", "answer"), closeness)
    assert found.peaks == [1, 4, 8] and "task peaks at layer 4" in repr(found)
    low, high = found.interval[1, 4].tolist()
    assert 0.5 <= low < 0.75 < high <= 1
    table = found.to_dataframe()
    assert len(table) == 27 and table["value"].max() == 0.75
    found.save(tmp_path / "phases.safetensors")
    again = Phases.load(tmp_path / "phases.safetensors")
    assert again.groups == found.groups and torch.equal(again.closeness, closeness)
    assert "reciprocal rank" in found._repr_html_()


def test_mistakes_are_named(causal, prompts):
    with pytest.raises(TvlensError, match="1 entries of words for 2 prompts"):
        phases(causal, prompts, WORDS[:1])
    with pytest.raises(TvlensError, match="words of the same groups: input"):
        phases(causal, prompts, [WORDS[0], {"input": ("a",)}])
