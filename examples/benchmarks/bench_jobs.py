"""Images per second of HeatmapTransformer with two workers of each joblib backend, beside one process.

    OMP_NUM_THREADS=1 python examples/benchmarks/bench_jobs.py

Each backend computes once before it is timed, so that its workers have started and hold the net. Then, in every round,
one process and all backends take their turns. Ray starts its workers in every call. Dask and Ray are left out if they
are not installed.
"""

import argparse
import contextlib
import time
from importlib.util import find_spec

import joblib
import numpy as np
import torch
from torchvision.models import get_model

from skexmap.features import HeatmapTransformer


def configurations(stack):
    """Return what `joblib.parallel_config` gets for each backend, whose clusters live as long as a stack."""
    configs = {name: {"backend": name, "n_jobs": 2} for name in ("loky", "threading")}
    if find_spec("distributed"):
        from dask.distributed import Client, LocalCluster

        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
        stack.enter_context(Client(stack.enter_context(cluster)))
        configs["dask"] = {"backend": "dask"}
    if find_spec("ray"):
        import ray
        from ray.util.joblib import register_ray

        ray.init(num_cpus=2, include_dashboard=False)
        stack.callback(ray.shutdown)
        register_ray()
        configs["ray"] = {"backend": "ray", "n_jobs": -1}
    return configs


def seconds(heatmaps, images, expected, config):
    start = time.perf_counter()
    with joblib.parallel_config(**config) if config else contextlib.nullcontext():
        found = heatmaps.transform(images)
    assert np.array_equal(found, expected)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    images = torch.rand(args.images, 3, args.size, args.size).numpy()
    heatmaps = HeatmapTransformer(
        get_model(args.model, weights=None), batch_size=args.batch_size, device="cpu"
    )
    expected = heatmaps.fit_transform(images)
    with contextlib.ExitStack() as stack:
        configs = {"one process": None, **configurations(stack)}
        for config in configs.values():
            seconds(heatmaps, images, expected, config)
        times = {name: [] for name in configs}
        for _ in range(args.rounds):
            for name, config in configs.items():
                times[name].append(seconds(heatmaps, images, expected, config))
    print(f"{args.model}, {args.images} images of {args.size} x {args.size}, batches of {args.batch_size}")
    print("| workers | images/s | of one process |\n|---|---:|---:|")
    serial = np.array(times["one process"])
    for name, values in times.items():
        print(f"| {name} | {args.images / np.median(values):.1f} | {np.median(serial / values):.2f} |")


if __name__ == "__main__":
    main()
