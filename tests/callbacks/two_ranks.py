"""A fit on two processes, started by `test_ranks.py`: `two_ranks.py FOLDER fits|misfit`."""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytorch_lightning as L
import torch
from conftest import TinyNet
from fits import Watched, data, three
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from lightning_convviz import GradCAMLogger


def main(folder: str, case: str) -> None:
    warnings.simplefilter("ignore")
    watchers = three() if case == "fits" else [GradCAMLogger(probes=(torch.zeros(2, 3, 12, 16), [0, 7]))]
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend="gloo"),
        logger=TensorBoardLogger(folder, name=None, version=0), callbacks=watchers, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    try:
        trainer.fit(Watched(TinyNet()), DataLoader(data(), 8), DataLoader(data(20, seed=1), 8))
        print(f"rank {trainer.global_rank}: done", flush=True)
    except ValueError as error:
        print(f"rank {trainer.global_rank}: {error}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
