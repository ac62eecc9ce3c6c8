"""Checkpoints of training runs."""

from tvlens.training import checkpoint


def test_remove_leftovers_removes_files_and_folders_of_a_killed_run(tmp_path):
    folder = tmp_path / checkpoint.FOLDER
    (folder / ".step-00000002.safetensors.1-aaaaaaaa-bbbbbbbb").mkdir(parents=True)
    (folder / ".step-00000002.safetensors.1-aaaaaaaa-cccccccc.safetensors").touch()
    (folder / "step-00000001.safetensors").touch()
    checkpoint.remove_leftovers(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["step-00000001.safetensors"]
