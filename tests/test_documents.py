"""What the README says runs; the demo does what `make demo` promises."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from fits import Events
from PIL import Image
from test_namespaces import make
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parents[1]


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_the_blocks_of_the_readme_run_one_after_the_other(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loader = DataLoader(TensorDataset(torch.randn(16, 3, 12, 16), torch.arange(16) % 5), batch_size=8)
    names = {"model": make(L, tiny())(), "train_loader": loader, "val_loader": loader}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["heat"].shape == (8, 12, 16)
    assert list(tmp_path.glob("logs/**/events*"))


def test_files_that_the_readme_shows_are_there():
    for path in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / path).exists(), path
    with Image.open(ROOT / "examples/pictures/demo.jpg") as picture:
        assert picture.width > 800


@pytest.mark.filterwarnings("error::UserWarning", "ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.parametrize(
    "shortcut", [(), pytest.param(("--shortcut",), marks=pytest.mark.slow)], ids=["plain", "shortcut"]
)
def test_the_demo_draws_and_says_where_to_look(tmp_path, monkeypatch, capsys, shortcut):
    """One epoch of few pictures; `test_the_demo_as_it_is` has them all."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    for name in ("shapes", "train"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import shapes
    import train

    monkeypatch.setattr(train, "Shapes", lambda count, **others: shapes.Shapes(min(count, 320), **others))
    train.main(["--epochs", "1", "--accelerator", "cpu", "--logdir", str(tmp_path), *shortcut])
    draws(tmp_path, capsys.readouterr().out)


@pytest.mark.slow
def test_the_demo_as_it_is(tmp_path):
    command = [sys.executable, "-W", "error::UserWarning", "examples/train.py", "--epochs", "1"]
    command += ["--logdir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    draws(tmp_path, done.stdout)


def draws(folder, said):
    assert f"tensorboard --logdir {folder} --samples_per_plugin images=1000" in said
    (log,) = {path.parent for path in folder.glob("**/events*")}
    assert {tag.split("/")[0] for tag in Events(log).tags} == {"activations", "filters", "gradcam"}
