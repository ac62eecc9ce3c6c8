import pytest

from tvlens import Task


@pytest.fixture(scope="module")
def parts():
    return Task.load("singular-plural").subset(range(30)).split(seed=0)
