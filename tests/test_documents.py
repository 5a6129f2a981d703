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


def test_the_demo_trains_draws_and_says_where_to_look(tmp_path):
    command = [
        sys.executable,
        "-W",
        "error::UserWarning",
        "examples/train.py",
        "--epochs",
        "1",
        "--logdir",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"tensorboard --logdir {tmp_path} --samples_per_plugin images=1000" in done.stdout
    (folder,) = {path.parent for path in tmp_path.glob("**/events*")}
    assert {tag.split("/")[0] for tag in Events(folder).tags} == {"activations", "filters", "gradcam"}
