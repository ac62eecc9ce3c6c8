"""`Examples`: labelled inputs as an encoder reads them, and the batches of an epoch."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..labelled import LabelledDataset
from ..models.inputs import image_settings, token_rows
from ..models.processor import preprocess_images

JITTER = 4.0


@dataclass(frozen=True)
class Examples:
    """Rows with their classes.

    Attributes:
        rows: token ids of each text, or images.
        labels: class of each row.
        form: how images become pixel values; empty for texts.
    """

    rows: list
    labels: Int[Tensor, " row"]
    form: dict

    @classmethod
    def of(
        cls, data: LabelledDataset, model: Any, tokenizer: Any, *, max_tokens: int
    ) -> "Examples":
        """The rows of a labelled set as `model` reads them."""
        labels = torch.tensor(data.labels)
        if data.kind == "image":
            return cls(list(data.inputs), labels, image_settings(model.config))
        return cls(token_rows(tokenizer, data.inputs, max_tokens=max_tokens), labels, {})

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, *, seed: int | None = None) -> list[list[int]]:
        """Every row once, those of like length together; drawn by a seed, or in a fixed order.

        A seed moves lengths by up to four tokens before they are sorted, so that batches differ
        from epoch to epoch and still hold little padding.
        """
        lengths = np.array([len(row) for row in self.rows], dtype=float)
        if seed is None:
            order = np.argsort(lengths, kind="stable")
            return [order[i : i + size].tolist() for i in range(0, len(order), size)]
        rng = np.random.default_rng(seed)
        order = np.argsort(lengths + rng.uniform(0, JITTER, len(lengths)))
        parts = [order[i : i + size].tolist() for i in range(0, len(order), size)]
        return [parts[i] for i in rng.permutation(len(parts))]

    def inputs(self, chosen: list[int], device: torch.device) -> dict[str, Tensor]:
        """Some of the rows, by the names that Hugging Face's models give their inputs."""
        rows = [self.rows[i] for i in chosen]
        if self.form:
            return {"pixel_values": preprocess_images(rows, **self.form).to(device)}
        rows = [torch.tensor(row) for row in rows]
        # 0 is an ordinary token: the mask keeps whatever stands behind a text out of sight.
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        return {"input_ids": padded.to(device), "attention_mask": mask.to(device)}


def digest(*parts: LabelledDataset) -> str:
    """What tells these rows and labels from others."""
    found = hashlib.sha256()
    for part in parts:
        for one, label in zip(part.inputs, part.labels, strict=True):
            content = one.encode() if isinstance(one, str) else one.tobytes()
            found.update(b"%d %d " % (label, len(content)) + content)
    return found.hexdigest()[:16]
