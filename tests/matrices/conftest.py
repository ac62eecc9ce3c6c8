import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Shapes unchecked, as for users: what is wrong must be seen by the functions themselves."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
