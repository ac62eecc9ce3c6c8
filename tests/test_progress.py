import io

import pytest

from tvlens.progress import progress_bar

pytestmark = pytest.mark.no_arithmetic


@pytest.mark.parametrize(("progress", "is_shown"), [(True, True), (False, False), (None, False)])
def test_progress_bar_without_a_terminal_is_shown_on_request(progress, is_shown):
    file = io.StringIO()
    assert list(progress_bar(range(3), progress=progress, file=file)) == [0, 1, 2]
    assert bool(file.getvalue()) == is_shown


def test_nested_progress_bar_is_hidden_by_default():
    with progress_bar(total=1, progress=True, file=io.StringIO()):
        inner = progress_bar(total=1)
        assert inner.disable
