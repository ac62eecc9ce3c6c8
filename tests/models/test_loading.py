import copy
import sys

import pytest
import tiny
import torch

import tvlens as tv
from tvlens import TvlensError

pytestmark = pytest.mark.tl3


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "qwen3", "gemma3"])
def test_load_keeps_the_logits_of_a_hugging_face_model(name):
    torch.manual_seed(3)
    source = tiny._hugging_face(name).eval()
    tokens = torch.tensor(tiny.ragged("text", (7,)))
    with torch.no_grad():
        wanted = copy.deepcopy(source)(tokens).logits
        logits = tv.load(source)(tokens)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)


def test_load_returns_a_loaded_model_unchanged(causal):
    assert tv.load(causal) is causal


def test_load_opens_a_local_folder_offline(folder):
    model = tv.load(folder)
    assert tv.models.model_name(model) == "small-llama"
    assert model.cfg.n_layers == 3
    assert not tv.models.is_processed(model)
    assert model(torch.tensor([[1, 5, 9]])).shape == (1, 3, 384)


def test_load_with_processed_weights_keeps_probabilities(folder):
    tokens = torch.tensor(tiny.ragged("text", (7,)))
    raw, processed = tv.load(folder), tv.load(folder, processed=True)
    assert tv.models.is_processed(processed)
    with torch.no_grad():
        torch.testing.assert_close(
            processed(tokens).log_softmax(-1), raw(tokens).log_softmax(-1), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("smollm2-135", "did you mean 'smollm2-135m'"),
        ("./nowhere", "no model folder at './nowhere'"),
        (42, "cannot load a int"),
    ],
)
def test_load_refuses_unknown_sources(source, message):
    with pytest.raises(TvlensError, match=message):
        tv.load(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(device="gpu9"), "unknown device 'gpu9': did you mean 'cpu'"),
        (dict(device="cuda:99"), r"no device 'cuda:99' on this machine: choose from cpu"),
        (dict(device=[1]), "unknown device"),
        (dict(dtype="bfloat6"), "unknown dtype 'bfloat6': did you mean 'bfloat16'"),
        (dict(dtype="int8"), "unknown dtype 'int8'"),
        (dict(dtype=torch.int8), "unknown dtype 'torch.int8': choose from float64, float32"),
        (dict(dtype=None), "unknown dtype 'None'"),
    ],
)
def test_load_refuses_unknown_devices_and_dtypes(unchecked, folder, options, message):
    with pytest.raises(TvlensError, match=message):
        tv.load(folder, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_load_without_gpu_names_the_devices(folder):
    with pytest.raises(TvlensError, match=r"no device 'cuda' on this machine: choose from cpu"):
        tv.load(folder, device="cuda")


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("bfloat16", torch.bfloat16),
        ("torch.float16", torch.float16),
        ("fp64", torch.float64),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_load_accepts_names_of_dtypes(folder, dtype, wanted):
    model = tv.load(folder, device="cpu", dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {wanted}
    assert tv.collect(model, [[1, 5]], progress=False)["resid_post.2"].dtype == wanted


def test_load_names_local_models_when_the_hub_is_unreachable():
    """HF_HUB_OFFLINE is set for all tests: the hub is out of reach."""
    with pytest.raises(TvlensError, match=r"cannot get 'org/name' from the hub.*at hand"):
        tv.load("org/name")


def test_import_of_tvlens_loads_no_heavy_package():
    import subprocess

    heavy = "{'torch', 'transformers', 'transformer_lens', 'pandas', 'scipy', 'altair'}"
    code = f"import sys, tvlens; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_resolves():
    for name in tv.__all__:
        assert getattr(tv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tv.nothing


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", 0.5),
        ("config.json", 0.5),
        ("tokenizer.json", 0.5),
        ("tokenizer_config.json", 0),
        ("tokenizer.json", b"\xff\xfe"),
    ],
)
@pytest.mark.parametrize("kind", ["llama", "bert-bare"])
def test_load_names_the_damaged_file(tmp_path, kind, name, content):
    tiny._hugging_face(kind).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    complete = (tmp_path / name).read_bytes()
    if not isinstance(content, bytes):
        content = complete[: int(len(complete) * content)]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        TvlensError, match=rf"cannot load the model in .*: {name} is damaged"
    ) as caught:
        tv.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_load_refuses_a_folder_without_config(tmp_path):
    with pytest.raises(TvlensError, match=r"cannot load the model in .*: it has no config\.json"):
        tv.load(tmp_path)
