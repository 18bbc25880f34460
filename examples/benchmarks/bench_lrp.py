"""Time and memory of relevance heatmaps: skexmap against zennit, the published ExMap recipe and autoLRP.

    python examples/benchmarks/bench_lrp.py                 # all three nets
    python examples/benchmarks/bench_lrp.py --nets resnet18 --rounds 9
    python examples/benchmarks/bench_lrp.py --cheaper       # only what dtype= and layer= save, and what they change
    python examples/benchmarks/bench_lrp.py --architectures # the cost on 20 nets of torchvision, 4 x 224 x 224

All methods run in one process, in turn, round after round; the table gives medians over the rounds as multiples of the
plain forward pass without gradients (the faster of contiguous and channels-last). Peak memory is measured in a fresh
process per method: the growth of the largest resident size over what model and images take (Linux only).

Peers that are not installed (``pip install zennit autoLRP captum lxt torchvision``) are left out and said so.
"""

import argparse
import contextlib
import importlib.util
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skexmap import HeatmapTransformer
from skexmap.lrp import COMPOSITES, LRP
from skexmap.lrp._engine import RelevanceEngine

NETS = ("resnet18", "resnet50", "demo")
# Where the propagation may stop: after each stage of the net.
LAYERS = {
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "demo": ("3", "7"),
}
ARCHITECTURES = """
    alexnet convnext_tiny densenet121 efficientnet_b0 googlenet mnasnet0_5 mobilenet_v2 mobilenet_v3_large
    regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x1_0 squeezenet1_1 swin_t vgg11
    vgg11_bn vit_b_16 wide_resnet50_2
"""
DTYPES = ("bfloat16", "float16", "float64")


def demo_net():
    """Return a net of the size of the demo's: three convolutions at 28 x 28."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2),
    )  # fmt: skip


def make_net(name, n_images=None):
    """Return a net with random weights and non-trivial batch-norm statistics, and its batch of images."""
    torch.manual_seed(0)
    if name == "demo":
        net, images = demo_net(), torch.rand(64, 3, 28, 28)
    else:
        import torchvision

        net = torchvision.models.get_model(name, weights=None)
        images = torch.randn(n_images or (8 if name == "resnet18" else 4), 3, 224, 224)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval().requires_grad_(False), images


# --- The methods: each is given net and images and returns a function to time ---------------------------------------


def forward_contiguous(net, images):
    """Plain forward pass, contiguous."""

    @torch.no_grad()
    def run():
        return net(images)

    return run


def forward_channels_last(net, images):
    """Plain forward pass, channels-last."""
    return forward_contiguous(
        net.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
    )


def gradient(net, images):
    """Forward and backward pass to the pixels, channels-last: what any gradient method costs at least."""
    net = net.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)

    def run():
        x = images.detach().requires_grad_()
        return torch.autograd.grad(net(x).amax(1).sum(), x)[0]

    return run


def training_step(net, images):
    """Forward and backward pass to the weights and the pixels, contiguous: what a training step costs at least."""
    net.requires_grad_(True)

    def run():
        net.zero_grad()
        net(images.detach().requires_grad_()).amax(1).sum().backward()

    return run


def training_step_channels_last(net, images):
    """Forward and backward pass to the weights and the pixels, channels-last."""
    last = torch.channels_last
    return training_step(net.to(memory_format=last), images.contiguous(memory_format=last))


def skexmap(net, images):
    """skexmap's engine, epsilon-gamma, as HeatmapTransformer runs it."""
    engine = RelevanceEngine(net.to(memory_format=torch.channels_last), COMPOSITES["epsilon_gamma"]())
    images = images.contiguous(memory_format=torch.channels_last)
    return lambda: engine.attribute(images, lambda logits: logits.argmax(1)).relevance


def _zennit(net, images, convolution, predict_first):
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite, layer_map_base
    from zennit.rules import Epsilon
    from zennit.torchvision import ResNetCanonizer
    from zennit.types import Convolution, Linear

    layer_map = [*layer_map_base(), (Convolution, convolution), (Linear, Epsilon())]
    composite = LayerMapComposite(layer_map, canonizers=[ResNetCanonizer()])

    def run():
        if predict_first:
            with torch.no_grad():
                target = net(images).argmax(1)
        with Gradient(model=net, composite=composite) as attributor:
            if predict_first:
                seed = torch.nn.functional.one_hot(target, len(net(images[:1])[0])).to(images.dtype)
                return attributor(images, seed)[1]
            return attributor(
                images, lambda out: torch.nn.functional.one_hot(out.argmax(1), out.shape[1]) * 1.0
            )[1]

    return run


def zennit_gamma(net, images):
    """zennit's own generalized gamma rule on all convolutions."""
    from zennit.rules import Gamma

    return _zennit(net, images, Gamma(4.0), predict_first=False)


def published(net, images):
    """The published recipe on zennit: a pass for the prediction, then the four-term sign-symmetric gamma rule."""
    from zennit.core import BasicHook, stabilize

    class FourTerms(BasicHook):
        def __init__(self, gamma):
            def keep_bias_with(sign):
                def weights(values, name):
                    return torch.clamp(values, **sign)

                return weights

            def without_bias(sign):
                def weights(values, name):
                    return torch.zeros_like(values) if name == "bias" else torch.clamp(values, **sign)

                return weights

            above, below = {"min": 0}, {"max": 0}

            def coefficients(seed, parts):
                positive, negative = parts[0] + parts[1], parts[2] + parts[3]
                favor = positive >= negative.abs()
                weigh = (1 + gamma * favor, 1 + gamma * favor.logical_not())
                share = seed / stabilize(weigh[0] * positive + weigh[1] * negative)
                return [share * weigh[0]] * 2 + [share * weigh[1]] * 2

            super().__init__(
                input_modifiers=[lambda x, s=s: torch.clamp(x, **s) for s in (above, below, above, below)],
                param_modifiers=[
                    keep_bias_with(above),
                    without_bias(below),
                    keep_bias_with(below),
                    without_bias(above),
                ],
                output_modifiers=[lambda z: z] * 4,
                gradient_mapper=coefficients,
                reducer=lambda xs, gs: sum(x * g for x, g in zip(xs, gs, strict=True)),
            )

    return _zennit(net, images, FourTerms(4.0), predict_first=True)


def published_original(net, images):
    """The published code itself (``--published FILE``), from its file."""
    spec = importlib.util.spec_from_file_location("published_lrp", ARGUMENTS.published)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _zennit(net, images, module.GammaSymmetric(gamma=4), predict_first=True)


def autolrp_gamma(net, images):
    """autoLRP with its gamma rule on all convolutions."""
    import autolrp
    from autolrp.config import BASE, LRPConfig

    config = LRPConfig(rule={**BASE, "ConvolutionBackward": ("gamma", {"gamma": 4.0})})

    def run():
        x = autolrp.tensor(images)
        out = net(x)
        target = torch.as_tensor(out.detach()).argmax(1)
        # From one scalar: the logits of all images, whose relevance does not mix.
        out.gather(1, target[:, None]).sum().lrp(config=config)
        return x.relevance

    return run


def captum_gamma(net, images):
    """captum's LRP with its gamma rule on all convolutions and its epsilon rule elsewhere."""
    from captum.attr import LRP as CaptumLRP
    from captum.attr._utils.lrp_rules import GammaRule

    def run():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.rule = GammaRule(gamma=4.0)
        with torch.no_grad():
            target = net(images).argmax(1)
        return CaptumLRP(net).attribute(images, target=target)

    return run


def lxt_vit(net, images):
    """LXT's rules for torchvision's ViT, as gradient times input: its way without a gamma rule."""
    from lxt.efficient import monkey_patch
    from lxt.efficient.models.vit_torch import cp_LRP
    from torchvision.models import vision_transformer

    if not isinstance(net, vision_transformer.VisionTransformer):
        raise TypeError("for ViT only")
    originals = {layer: layer.forward for layer in cp_LRP}

    def run():
        # LXT patches the classes of torch, which the other methods use too.
        monkey_patch(vision_transformer, cp_LRP)
        try:
            x = images.detach().requires_grad_()
            return x * torch.autograd.grad(net(x).amax(1).sum(), x)[0]
        finally:
            for layer, forward in originals.items():
                layer.forward = forward

    return run


METHODS = {
    "forward, contiguous": forward_contiguous,
    "forward, channels-last": forward_channels_last,
    "forward + backward": gradient,
    "training step": training_step_channels_last,
    "skexmap epsilon-gamma": skexmap,
    "published recipe on zennit": published,
    "zennit epsilon-gamma": zennit_gamma,
    "autoLRP epsilon-gamma": autolrp_gamma,
}
ARGUMENTS = None


def time_in_turn(functions, rounds, clock=time.perf_counter):
    """Return the seconds of each function over the rounds; they run in turn."""
    for run in functions.values():
        run()
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, run in functions.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def print_cheaper(net_name, rounds):
    """Print what other floating types and inner layers cost and change, against float32 maps of the pixels.

    The time is that of `HeatmapTransformer.transform` on the CPU, summed over the cores, in turn with the plain one.
    The maps are compared image by image, by the correlation of their entries: at the side of the smaller of the two,
    summed over the channels where a layer's channels are no colors.
    """
    net, images = make_net(net_name)
    shared = {"size": 28, "batch_size": len(images), "device": "cpu"}
    layers = {layer: LRP(layer=layer) for layer in LAYERS[net_name]}
    variants = {"float32, to the pixels": HeatmapTransformer(net, **shared)}
    variants |= {f"dtype={name!r}": HeatmapTransformer(net, dtype=name, **shared) for name in DTYPES}
    variants |= {
        f"layer={layer!r}": HeatmapTransformer(net, attribution=lrp, **shared)
        for layer, lrp in layers.items()
    }
    for name, transformer in list(variants.items()):
        try:
            transformer.fit(images)
        except ValueError as error:
            print(f"\n{net_name}, {name} is refused: {error}")
            del variants[name]
    seconds = time_in_turn(
        {name: lambda t=t: t.transform(images) for name, t in variants.items()}, rounds, time.process_time
    )
    plain = seconds["float32, to the pixels"]
    print(f"\n{net_name}, images {tuple(images.shape)}; plain heatmaps: {statistics.median(plain):.3f} CPU s")
    print(f"{'':30}{'x plain':>10}{'map':>12}{'corr. mean':>12}{'corr. min':>12}")
    for name, transformer in variants.items():
        side = transformer.heatmap_shape_[-1]
        reference = variants["float32, to the pixels"].transform(images)
        if transformer.attribution != "lrp":
            # A map of its own side: what is compared is the place, not the resolution.
            full = HeatmapTransformer(net, **{**shared, "size": None}).fit_transform(images)
            full = torch.as_tensor(full.reshape(len(images), 3, *images.shape[2:]))
            reference = nn.functional.adaptive_avg_pool2d(full, side).sum(1).flatten(1).numpy()
        pairs = zip(transformer.transform(images), reference, strict=True)
        correlations = [np.corrcoef(a, b)[0, 1] for a, b in pairs]
        ratio = statistics.median(mine / full for mine, full in zip(seconds[name], plain, strict=True))
        print(
            f"{name:30}{ratio:10.2f}{f'{side} x {side}':>12}{np.mean(correlations):12.3f}{min(correlations):12.3f}"
        )


def print_architectures(names, rounds):
    """Print the time of maps as multiples of other passes, for many nets; the columns are explained in the docs."""
    own = ("forward, contiguous", "forward, channels-last", "skexmap epsilon-gamma")
    steps = {"training step, contiguous": training_step, "training step": training_step_channels_last}
    peers = {"zennit": zennit_gamma, "captum": captum_gamma, "LXT": lxt_vit}
    print(f"{'net':20}{'forward, s':>12}{'x forward':>12}{'x step':>9}", *(f"{peer:>9}" for peer in peers))
    for name in names:
        functions = {method: METHODS[method](*make_net(name, 4)) for method in own}
        functions |= {method: make(*make_net(name, 4)) for method, make in steps.items()}
        failed = {}
        for peer, make in peers.items():
            try:
                run = make(*make_net(name, 4))
                run()
            except ImportError:
                failed[peer] = "not installed"
            except Exception as error:
                failed[peer] = f"fails: {type(error).__name__}: {str(error)[:80]}".replace("\n", " ")
            else:
                functions[peer] = run
        seconds = time_in_turn(functions, rounds, time.process_time)
        median = {method: statistics.median(values) for method, values in seconds.items()}
        ours = median["skexmap epsilon-gamma"]
        unit = min(median[method] for method in own[:2])
        step = min(median[method] for method in steps)
        theirs = (f"{median[peer] / ours:9.2f}" if peer in median else f"{'-':>9}" for peer in peers)
        print(f"{name:20}{unit:12.3f}{ours / unit:12.2f}{ours / step:9.2f}", *theirs)
        for peer, why in failed.items():
            if why != "fails: TypeError: for ViT only":
                print(f"    {peer} {why}")
        sys.stdout.flush()


def peak_memory(net_name, method):
    """Return the growth of the resident size in MiB over two runs, measured in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--nets",
        net_name,
        "--memory-of",
        method,
        "--threads",
        str(ARGUMENTS.threads),
    ]
    if ARGUMENTS.published:
        command += ["--published", ARGUMENTS.published]
    done = subprocess.run(command, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")


def print_own_memory(net_name, method):
    """Print the growth of this process's largest resident size over two runs of a method."""
    net, images = make_net(net_name)
    run = METHODS[method](net, images)
    with torch.no_grad():
        net(images[:1])
    before = _status("VmRSS")
    # Let the kernel forget the peak that importing torch has left behind.
    Path("/proc/self/clear_refs").write_text("5")
    run()
    run()
    print((_status("VmHWM") - before) / 1024)


def _status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main():
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", default=NETS, choices=NETS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--published", help="path of the published code's lrp.py, to time the original")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument(
        "--cheaper", action="store_true", help="only the tables of dtype= and layer=, which else come last"
    )
    parser.add_argument(
        "--architectures",
        nargs="*",
        metavar="NET",
        help="only the cost on these nets of torchvision (20 if none is named)",
    )
    parser.add_argument(
        "--memory-of", metavar="METHOD", help="only print the peak memory of this method, in MiB"
    )
    global ARGUMENTS
    ARGUMENTS = parser.parse_args()
    torch.set_num_threads(ARGUMENTS.threads)
    if ARGUMENTS.published:
        METHODS["published code, original"] = published_original
    if ARGUMENTS.memory_of:
        return print_own_memory(ARGUMENTS.nets[0], ARGUMENTS.memory_of)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {ARGUMENTS.rounds} rounds"
    )
    if ARGUMENTS.architectures is not None:
        return print_architectures(ARGUMENTS.architectures or ARCHITECTURES.split(), ARGUMENTS.rounds)
    if not ARGUMENTS.cheaper:
        print_methods()
    for name in ARGUMENTS.nets:
        print_cheaper(name, ARGUMENTS.rounds)


def print_methods():
    """Print time and memory of all methods."""
    for name in ARGUMENTS.nets:
        functions = {}
        for method, make in METHODS.items():
            if ARGUMENTS.methods and method not in ARGUMENTS.methods and not method.startswith("forward,"):
                continue
            try:
                functions[method] = make(*make_net(name))
            except ImportError as error:
                print(f"{method}: left out ({error})")
        seconds = time_in_turn(functions, ARGUMENTS.rounds)
        median = {method: statistics.median(values) for method, values in seconds.items()}
        unit = min(value for method, value in median.items() if method.startswith("forward,"))
        ours = seconds["skexmap epsilon-gamma"]
        shape = tuple(make_net(name)[1].shape)
        print(f"\n{name}, images {shape}; unit: one forward pass, {unit:.4f} s")
        print(f"{'':30}{'x forward':>10}{'x skexmap':>11}{'peak MiB':>10}")
        for method, values in seconds.items():
            paired = statistics.median(theirs / mine for theirs, mine in zip(values, ours, strict=True))
            memory = float("nan") if ARGUMENTS.no_memory else peak_memory(name, method)
            print(f"{method:30}{median[method] / unit:10.2f}{paired:11.2f}{memory:10.0f}")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
