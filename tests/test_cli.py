import errno
import inspect
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny
import torch

import tvlens as tv
from tvlens import TvlensError, cli
from tvlens.cli import common
from tvlens.studies import vectors as study


def run(*arguments, env=None):
    command = [sys.executable, "-m", "tvlens", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(env or {})}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vectors", "-t", "singular-plurl"], "did you mean 'singular-plural'"),
        (["vectors", "-t", "antonym", "-m", "smolm2-135m"], "did you mean 'smollm2-135m'"),
        (["vectors", "-t", "antonym", "--template", "qaa"], "did you mean 'qa'"),
        (["vectors", "-t", "nowhere.csv"], "nowhere.csv is no task"),
        (["zoo", "get", "minilm"], "did you mean 'minilm-l6'"),
        (["patch", "-t", "antonim"], "did you mean 'antonym'"),
        (["patch", "-t", "antonym", "--site", "zz"], "unknown site 'zz'"),
        (["patch", "-t", "antonym", "--positions", "last"], "give all, together, or numbers"),
        (["patch", "--clean", "a"], "give --task, or --clean, --corrupted and --right"),
        (["methods", "--method", "stat"], "did you mean 'state'"),
        (["methods", "-t", "antonym"], "at least two kinds"),
        (["vectors", "-t", "antonym", "-o", "/dev/null"], "cannot write to /dev/null: "),
        (["matrix", "--preset", "quik"], "did you mean 'quick'"),
        (["matrix", "-d", "emoji-word"], "did you mean 'emoji-words'"),
    ],
)
def test_mistakes_are_one_line_and_exit_two(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_lists():
    assert "singular-plural" in run("tasks").stdout
    listing = run("zoo").stdout
    assert all(name in listing for name in tv.zoo.ZOO)
    assert "Apache-2.0" in listing
    assert run("--help").returncode == 0


def test_version_answers_without_torch():
    code = "import sys; sys.modules['torch'] = None; from tvlens.cli import main; main()"
    command = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"tvlens {tv.__version__}\n"


def test_patch_writes_a_page_and_numbers(folder, tmp_path):
    texts = ["--clean", "Q: cat A: cats", "--corrupted", "Q: dog A: dogs", "--right", "s"]
    done = run("patch", "-m", folder, *texts, "-o", tmp_path, "--site", "mlp_out")
    assert done.returncode == 0, done.stderr
    assert "effect" in done.stdout and str(tmp_path / "index.html") in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["settings"]["site"] == "mlp_out"


def test_vectors_writes_a_page_and_numbers(folder, tmp_path):
    (tmp_path / "own.csv").write_text(
        "input,output\n" + "\n".join(f"{c}at,{c}ats" for c in "abcdefghijklmnopqrst")
    )
    out = tmp_path / "out"
    arguments = ["vectors", "-m", folder, "-t", tmp_path / "own.csv", "-o", out]
    done = run(*arguments, "--shots", 2, "--contexts", 3, "--template", "arrow")
    assert done.returncode == 0, done.stderr
    assert "own" in done.stdout
    assert str(out / "index.html") in done.stdout
    numbers = json.loads((out / "report.json").read_text())
    assert numbers["settings"]["model"] == "small-llama"
    assert set(numbers["tasks"]["own"]["conditions"]) >= {"vector", "zero_shot", "random"}
    page = (out / "index.html").read_text()
    assert len(page) < 3_000_000
    assert 'src="http' not in page
    assert (out / "own.safetensors").exists()


def test_too_long_a_prompt_is_one_line(folder, tmp_path):
    done = run("vectors", "-m", folder, "-t", "antonym", "--shots", 20, "-o", tmp_path)
    assert done.returncode == 2
    assert "the model's context is 96" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    """A real interrupt while a real conversion runs, from the start of the download on."""
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-m", "tvlens", "zoo", "get", "smollm2-135m"],
        env={**os.environ, "TVLENS_CACHE": str(cache), "PIP_INDEX_URL": "http://127.0.0.1:9"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(cache.glob("zoo/.smollm2*")) and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in errors.split("tvlens: fetching")[1].split("tvlens: interrupted")[0]
    assert not list(cache.glob("zoo/.*")) and not list(cache.glob("zoo/*"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    tasks = [tv.Task.load(n).subset(range(24)) for n in ("antonym", "first-letter")]
    options = dict(shots=2, contexts=4, folder=out, progress=False)
    return study.run(tiny.model("llama"), tasks, **options), out, tasks, options


def test_a_study_compares_its_tasks(made):
    result, out, _, _ = made
    assert result.cosines.shape == (2, 2)
    torch.testing.assert_close(result.cosines.diagonal(), torch.ones(2))
    assert len(result.to_dataframe()) == 14
    assert len(result.prompt) == result.alignment.shape[0] == result.patterns.shape[-1]
    assert {p.name for p in out.iterdir()} >= {"index.html", "report.json", "antonym.safetensors"}


def test_a_study_goes_on_where_it_was(made, monkeypatch):
    result, _, tasks, options = made

    def never(*_, **__):
        raise AssertionError("evaluated again")

    monkeypatch.setattr(study, "evaluate", never)
    again = study.run(tiny.model("llama"), tasks, **options)
    assert again.reports["antonym"].to_json() == result.reports["antonym"].to_json()
    with pytest.raises(AssertionError, match="evaluated again"):
        study.run(tiny.model("llama"), tasks, **options | {"seed": 1})


def test_a_study_of_nothing_or_of_twins_is_an_error():
    task = tv.Task.load("antonym")
    with pytest.raises(TvlensError, match="no task to study"):
        study.run(tiny.model("llama"), [])
    with pytest.raises(TvlensError, match="same name"):
        study.run(tiny.model("llama"), [task, task])


def test_every_command_tries_its_folder_first():
    for command in cli.COMMANDS:
        parameter = inspect.signature(command).parameters.get("out")
        if parameter is not None:
            (option,) = parameter.annotation.__metadata__
            assert option.callback is common.writable, command.__name__


def test_an_error_of_the_system_is_one_line(monkeypatch, capsys):
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "states")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"tvlens: states: {os.strerror(errno.ENOSPC)}\n"
