import torch

import tvlens as tv
from tvlens.bayes.checks.simplex_projection import project_on_shared_simplex


def test_project_equals_projection_on_the_span_of_task_vectors():
    h = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    task, token = torch.arange(40) % 5, torch.arange(40) // 5 % 2
    effects = tv.geometry.balanced_effects(h, task, token)
    projection = project_on_shared_simplex(h, token, effects).project()
    expected = tv.Subspace.span(effects.task).project(effects.residual(h, token).double())
    torch.testing.assert_close(projection, expected, check_dtype=False)
    # Centered task vectors span one direction fewer than there are tasks.
    assert torch.linalg.matrix_rank(projection, rtol=1e-4) == 4
