import numpy as np
import torch

from tvlens.vlm import Projector, initialize_projector
from tvlens.vlm.initialization import pad_name


def test_initialize_projector_classifies_by_ridge_and_outputs_names():
    """Hidden units equal scikit-learn's ridge; a confident unit outputs its name."""
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    centers, embeddings = torch.randn(5, 2, 8, generator=generator), torch.randn(5, 2, 3)
    categories = torch.arange(5).repeat(12)
    states = centers[categories] + 0.1 * torch.randn(60, 2, 8, generator=generator)
    projector = Projector(16, 5, 2, 3)
    initialize_projector(projector, states, categories, embeddings)
    inputs = torch.nn.functional.layer_norm(states.flatten(1), (16,)).numpy()
    ridge = Ridge(alpha=60 * 5e-3).fit(inputs, np.eye(5)[categories])
    weights = torch.tensor(100 * ridge.predict(inputs)).softmax(-1).float()
    expected = torch.einsum("nk,ktd->ntd", weights, embeddings)
    torch.testing.assert_close(projector(states), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(projector(states), embeddings[categories], atol=1e-3, rtol=1e-3)


def test_pad_name_pads_left_and_cuts_right():
    assert pad_name([7], 3, 0) == [0, 0, 7]
    assert pad_name([1, 2, 3, 4], 3, 0) == [1, 2, 3]
