"""Images for the tests of tables."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image


def write_images(folder: Path, seed: int = 0) -> Path:
    """Random images of CIFAR-10's size and classes, enough for the scale smoke."""
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=10))
    generator = np.random.default_rng(seed)
    for split, count in (("train", 300), ("test", 60)):
        labels = [row % 10 for row in range(count)]
        pixels = generator.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8) // 4 + 20 * np.array(labels)[
            :, None, None, None
        ].astype(np.uint8)
        rows = []
        for picture in pixels:
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "PNG")
            rows.append({"bytes": stream.getvalue(), "path": None})
        table = datasets.Dataset.from_dict({"image": rows, "label": labels}, features=features)
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / f"{split}.parquet")
    return folder
