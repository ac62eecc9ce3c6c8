"""Notebooks after a run in the short version, each run once for all tests of a worker.

Kernels are forked from a process that has imported the packages on which tvlens depends, which
takes longer than most cells. The notebook of `COLD` gets a kernel that imports them itself.
"""

import functools
import multiprocessing
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import nbclient
import nbformat

from tvlens import zoo

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
COLD = "01_quickstart"

# tvlens itself is not among them: what it prints when it is imported belongs to the outputs.
_PRELOADED = ["ipykernel.kernelapp", "pandas", "sklearn.linear_model", "scipy.stats"]
_PRELOADED += ["transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto"]
_PRELOADED += ["transformer_lens.model_bridge.sources.native"]


@functools.cache
def execute(path: Path) -> Any:
    """Run a notebook in its own folder."""
    for name in ("smollm2-135m", "minilm-l6", "dinov2-small"):
        zoo.get(name)  # or the notebook would say that it fetches them
    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(FOLDER)}}
    client = nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=resources)
    launcher = "jupyter_client.provisioning.local_provisioner.launch_kernel"
    with mock.patch(launcher, ForkedKernel) if path.stem != COLD else nullcontext():
        client.execute(env=os.environ | {"TVLENS_FAST": "1", "PYTHONPATH": str(ROOT)})
    return book


class ForkedKernel:
    """A kernel with the interface of `subprocess.Popen`, which Jupyter expects."""

    stdin = stdout = stderr = None

    def __init__(self, command: list[str], *, env: dict[str, str], cwd: str, **_: Any):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._process = context.Process(target=_run_kernel, args=(command, env, cwd))
        self._process.start()
        self.pid = self._process.pid
        # Jupyter signals the process group.
        while self._process.is_alive() and os.getpgid(self.pid) != self.pid:
            time.sleep(0.01)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run_kernel(command: list[str], env: dict[str, str], cwd: str) -> None:
    from ipykernel.kernelapp import launch_new_instance

    os.setsid()
    os.chdir(cwd)
    # The kernel ends with the process from which it was forked, which ends with the tests.
    os.environ |= env | {"JPY_PARENT_PID": str(os.getppid())}
    launch_new_instance(argv=command[command.index("-f") :])
