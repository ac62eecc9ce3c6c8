"""The command line: one-line errors, lists, output files, interrupts."""

import errno
import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import tiny
from helpers import restore_signal_handlers

import tvlens as tv
from tvlens import cli
from tvlens.cli import main, options

pytestmark = pytest.mark.no_arithmetic


def run_process(*arguments):
    """Run the command in a new process."""
    command = [sys.executable, "-m", "tvlens", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def run(capfd, monkeypatch):
    """Run the command in this process, which saves the imports."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tvlens", *map(str, arguments)])
        monkeypatch.setattr(cli, "install_handlers", lambda: None)
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
            sys.exit(0)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, end.value.code or 0, out, err)

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vectors", "-t", "singular-plurl"], "did you mean 'singular-plural'"),
        (["vectors", "-t", "antonym", "-m", "smolm2-135m"], "did you mean 'smollm2-135m'"),
        (["vectors", "-t", "antonym", "--template", "qaa"], "did you mean 'qa'"),
        (["vectors", "-t", "nowhere.csv"], "nowhere.csv is no task"),
        (["patch", "-t", "antonim"], "did you mean 'antonym'"),
        (["patch", "-t", "antonym", "--site", "zz"], "unknown site 'zz'"),
        (["patch", "-t", "antonym", "--positions", "last"], "give all, together, or numbers"),
        (["patch", "--clean", "a"], "give --task, or --clean, --corrupted and --right"),
        (["methods", "--method", "stat"], "did you mean 'state'"),
        (["methods", "-t", "antonym"], "at least two kinds"),
        (["vectors", "-t", "antonym", "-o", "/dev/null"], "cannot write to /dev/null: "),
        (["matrix", "--preset", "quik"], "did you mean 'quick'"),
        (["matrix", "-d", "emoji-word"], "did you mean 'emoji-words'"),
        (["latent", "--minor", "none,few"], "give exponents such as none,0,4,8,10"),
    ],
)
def test_bad_arguments_exit_2_with_one_line(run, arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_command_prints_no_traceback_for_long_prompts(folder, tmp_path):
    done = run_process("vectors", "-m", folder, "-t", "antonym", "--shots", 20, "-o", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("tvlens: prompt") and "the model's context is 96" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vectors -t antonym --seed -1", "--seed"),
        ("matrix --seed 99999999999999999999", "--seed"),
        ("mixtures --noise 2", "--noise"),
        ("vectors", "--task"),
        ("vectors -t antonym -o ''", "give the name of a folder"),
        ("latent -o ''", "give the name of a folder"),
        ("train-vlm -o ' '", "give the name of a folder"),
        ("vectors -t antonym --template '{x} \\u12 {y}'", "is no escape sequence"),
        ("vectors -t antonym -m ''", "the name of the model is empty"),
        ("matrix --base ''", "the name of a model is empty"),
        ("vectors -t antonym -m {empty}", "cannot load the model"),
        ("vectors -t antonym -m {odd}", "cannot load the model"),
        ("vectors -t antonym -m {encoder}", "is no causal language model"),
        ("vectors -t {three}", "the name of a task is a text, not 3"),
        ("vectors -t {half}", "contains a lone surrogate"),
        ("train-vlm --device gpu9", "gpu9"),
        ("crossmodal --shots 0", "--shots"),
        ("vectr", "vectr"),
        ("tasks --nope", "--nope"),
        ("zoo get minilm", "did you mean 'minilm-l6'"),
    ],
)
def test_bad_input_of_any_command_is_one_line_without_files(
    line, message, example_files, tmp_path, monkeypatch, capsys, unchecked
):
    arguments = [
        part if "{x}" in part else part.format_map(example_files) for part in shlex.split(line)
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tvlens", *arguments])
    monkeypatch.setattr(cli, "install_handlers", lambda: None)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    message_line = capsys.readouterr().err
    assert caught.value.code == 2 and message in message_line
    assert message_line.startswith("tvlens: ") and message_line.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def example_files(tmp_path_factory):
    """Folders without a model, an encoder, and invalid task files."""
    root = tmp_path_factory.mktemp("places")
    for name in ("empty", "odd"):
        (root / name).mkdir()
    (root / "odd" / "config.json").write_text('{"model_type": "unheard-of"}')
    tiny._hugging_face("bert").save_pretrained(root / "encoder")
    tiny.tokenizer().save_pretrained(root / "encoder")
    (root / "three.json").write_text('{"name": 3, "pairs": [["a", "b"]]}')
    (root / "half.json").write_text('{"name": "\\ud800", "pairs": [["a", "b"]]}')
    return {path.stem: path for path in root.iterdir()}


def test_tasks_and_zoo_list_their_entries(run, unchecked):
    assert "singular-plural" in run("tasks").stdout
    listing = run("zoo").stdout
    assert all(name in listing for name in tv.zoo.ZOO)
    assert "Apache-2.0" in listing
    assert run("--help").returncode == 0


def test_version_imports_no_torch():
    code = "import sys; sys.modules['torch'] = None; from tvlens.cli import main; main()"
    command = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"tvlens {tv.__version__}\n"


def test_patch_writes_page_and_report(run, folder, tmp_path):
    texts = ["--clean", "Q: cat A: cats", "--corrupted", "Q: dog A: dogs", "--right", "s"]
    done = run("patch", "-m", folder, *texts, "-o", tmp_path, "--site", "mlp_out")
    assert done.returncode == 0, done.stderr
    assert "effect" in done.stdout and str(tmp_path / "index.html") in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["settings"]["site"] == "mlp_out"


def test_vectors_writes_page_report_and_vector(run, folder, tmp_path):
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


def test_interrupt_of_zoo_get_leaves_no_files(tmp_path):
    """Send SIGINT to the process group after the download has started."""
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-m", "tvlens", "zoo", "get", "smollm2-135m"],
        env={**os.environ, "TVLENS_CACHE": str(cache), "PIP_INDEX_URL": "http://127.0.0.1:9"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=restore_signal_handlers,
    )
    while not list(cache.glob("zoo/.smollm2*")) and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors.split("tvlens: fetching")[1].split("tvlens: interrupted")[0]
    assert not list(cache.glob("zoo/.*")) and not list(cache.glob("zoo/*"))


@pytest.mark.parametrize("name", ["/some/where/run", "../../escaped", "report"])
def test_vectors_writes_only_inside_its_output_folder(name, tmp_path, monkeypatch, unchecked):
    """Task names that are paths or names of output files do not escape the folder."""
    out = tmp_path / "a" / "b" / "out"
    name = name.replace("/some/where", str(tmp_path / "where"))
    task_file = tmp_path / "a" / "task.json"
    task_file.parent.mkdir()
    pairs = [[f"{c}at", f"{c}ats"] for c in "abcdefghijklmnopqrst"]
    task_file.write_text(json.dumps({"name": name, "pairs": pairs}))
    monkeypatch.setattr("tvlens.models.loading.load", lambda *_, **__: tiny.model("llama"))
    options = ["--shots", "2", "--contexts", "2", "-o", str(out)]
    assert cli.app(["vectors", "-t", str(task_file), *options], standalone_mode=False) is None
    files = {path for path in tmp_path.rglob("*") if path.is_file()} - {task_file}
    assert all(path.parent == out for path in files)
    numbers = json.loads((out / "report.json").read_text())
    assert list(numbers["tasks"]) == [name]
    assert len([p for p in files if p.suffix == ".safetensors"]) == 1 and len(files) == 4


def test_every_command_checks_its_output_folder():
    for command in cli.COMMANDS:
        parameter = inspect.signature(command).parameters.get("out")
        if parameter is not None:
            (option,) = parameter.annotation.__metadata__
            assert option.callback is options.check_output_folder, command.__name__


def test_os_errors_are_one_line(monkeypatch, capsys):
    def full(**options) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "states")

    monkeypatch.setattr(cli, "app", full)
    monkeypatch.setattr(cli, "install_handlers", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"tvlens: states: {os.strerror(errno.ENOSPC)}\n"
