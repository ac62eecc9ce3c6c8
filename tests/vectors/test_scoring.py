import pytest
import torch
from helpers import random_vector

from tvlens import TaskVector
from tvlens.tasks import TEMPLATES, build
from tvlens.vectors import Row, score
from tvlens.vectors.scoring import layer_sweep

pytestmark = pytest.mark.tl3


def test_score_equals_greedy_decoding_of_single_rows(causal, parts):
    """The reference is a loop over rows, layers and answer tokens."""
    _, _, test = parts
    vector = random_vector(causal)
    prompts = [build(causal.tokenizer, TEMPLATES["qa"], [], x, y) for x, y in test.pairs[:4]]
    # Answers of up to three tokens that are right by construction for half of the rows.
    rows = []
    for i, prompt in enumerate(prompts):
        for layer in (None, 0, 2):
            answer = decode_greedily(causal, prompt.tokens, vector, layer, 1 + i % 3)
            if i % 2:
                answer = (*answer[:-1], (answer[-1] + 1) % 384)
            answered = type(prompt)(**vars(prompt) | {"answer": answer})
            rows.append(Row(answered, layer, None if layer is None else vector.values[layer]))
    scores = score(causal, rows, batch_tokens=64)
    assert scores.full.tolist() == [i % 2 == 0 for i in range(4) for _ in range(3)]
    is_one_token = [len(r.prompt.answer) == 1 for r in rows]
    assert scores.first.tolist() == [
        f or not o for f, o in zip(scores.full.tolist(), is_one_token, strict=True)
    ]


@pytest.mark.filterwarnings("ignore:.*cannot")
@pytest.mark.parametrize("mode", ["replace", "add", "add_preserving_norm"])
def test_layer_sweep_equals_scores_of_its_rows(causal, parts, mode):
    """The reference scores one row per layer and prompt."""
    prompts = [build(causal.tokenizer, TEMPLATES["qa"], [], x, y) for x, y in parts[2].pairs[:6]]
    vector = random_vector(causal)
    # Answers that are right by construction for one layer each, of one to three tokens.
    answered = []
    for i, prompt in enumerate(prompts):
        vector_in_mode = TaskVector(vector.values, meta=vector.meta | {"mode": mode})
        answer = decode_greedily(causal, prompt.tokens, vector_in_mode, i % 3, 1 + i % 3)
        answered.append(type(prompt)(**vars(prompt) | {"answer": answer}))
    sweep = layer_sweep(causal, vector, answered, mode=mode, batch_tokens=20)
    rows = [Row(prompt, l, vector.values[l]) for prompt in answered for l in range(3)]
    wanted = score(causal, rows, mode=mode)
    assert sweep[..., 0].flatten().tolist() == wanted.first.float().tolist()
    assert sweep[..., 1].flatten().tolist() == wanted.full.float().tolist()
    assert all(sweep[i, i % 3].tolist() == [1, 1] for i in range(6))


def decode_greedily(model, tokens, vector, layer, count):
    last = len(tokens) - 1
    generated = []
    for _ in range(count):
        inputs = torch.tensor([[*tokens, *generated]])
        hooks = [] if layer is None else [vector.hook(model, layer, positions=torch.tensor([last]))]
        with torch.no_grad():
            logits = model.run_with_hooks(inputs, fwd_hooks=hooks)
        generated.append(int(logits[0, -1].argmax()))
    return tuple(generated)
