"""Write images, heatmaps and clusters in the layout that ViRelAy opens."""

import json
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from skexmap.features._loading import read_images
from skexmap.report._gallery import BATCH, pixels_of


def write_virelay(folder, gallery):
    """Write a project with its label map, images, attributions and analysis; return the path of the project."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "ShortcutReport.to_virelay needs h5py. Install it with `pip install 'skexmap[virelay]'`."
        ) from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    explained, names = gallery.explained, [f"class {code}" for code in range(len(gallery.classes))]
    labels = [
        {"index": code, "word_net_id": name, "name": str(gallery.classes[code])}
        for code, name in enumerate(names)
    ]
    (folder / "label_map.json").write_text(json.dumps(labels), encoding="utf-8")
    codes = explained.class_codes.astype(np.uint16)
    with h5py.File(folder / "images.h5", "w") as file:
        file["label"] = codes
        _write_images(file, gallery)
    with h5py.File(folder / "attributions.h5", "w") as file:
        file["index"] = np.arange(len(codes), dtype=np.uint32)
        file["attribution"] = explained.maps.astype(np.float32)
        file["label"] = codes
        # Only the predicted class is known, not the scores of all.
        file["prediction"] = (explained.predicted[:, None] == np.arange(len(names))).astype(np.float32)
    plane = PCA(2, random_state=0).fit_transform(explained.maps.reshape(len(codes), -1)).astype(np.float32)
    with h5py.File(folder / "analysis.h5", "w") as file:
        members = {"all": np.arange(len(codes))}
        members |= {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
        for name, rows in members.items():
            file[f"{name}/index"] = rows.astype(np.uint32)
            file[f"{name}/embedding/pca"] = plane[rows]
            # Images of no cluster get the number after the last, because ViRelAy reads numbers from 0.
            clusters = np.where(gallery.keys < 0, gallery.keys.max() + 1, gallery.keys)
            file[f"{name}/cluster/skexmap"] = clusters[rows].astype(np.uint32)
    project = {
        "name": "skexmap",
        "model": type(gallery.parts.transformer.model).__name__,
        "label_map": "label_map.json",
        "dataset": {"name": "images", "type": "hdf5", "path": "images.h5"},
        "attributions": {
            "attribution_method": "relevance",
            "attribution_strategy": "predicted_label",
            "sources": ["attributions.h5"],
        },
        "analyses": [{"analysis_method": "skexmap", "sources": ["analysis.h5"]}],
    }
    path = folder / "project.yaml"
    # JSON is YAML too.
    path.write_text(json.dumps({"project": project}, indent=1), encoding="utf-8")
    return path


def _write_images(file, gallery):
    """Write the images as the model sees them, batch by batch, as bytes."""
    n_images = len(gallery.keys)
    for start in range(0, n_images, BATCH):
        rows = np.arange(start, min(start + BATCH, n_images))
        images = [pixels_of(image) for image in read_images(gallery.X, gallery.parts.transformer.load, rows)]
        images = np.stack(images).transpose(0, 3, 1, 2)
        if start == 0:
            data = file.create_dataset("data", (n_images, *images.shape[1:]), np.uint8, compression="gzip")
        data[start : start + len(rows)] = images
