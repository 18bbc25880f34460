"""Which architectures work: the map against a second implementation, the embedding, the export and the cost of each.

    python examples/benchmarks/bench_models.py                      # all of torchvision, timm and transformers
    python examples/benchmarks/bench_models.py --only resnet vit    # names that contain one of these
    python examples/benchmarks/bench_models.py --json models.json

Every net has random weights, a few classes and batch-norm statistics that are not trivial, and runs on two random
images in float64. The columns:

- *map*: the largest relative error of a raw map against `lrp_reference.py`; "refused" if skexmap refuses the net.
- *embedding*: its length; "needs layer=" if skexmap asks for the name of a layer.
- *export*: "equal" if the scores of the exported module are those of the pipeline, up to 1e-12 of their terms.
- *cost*: the time of a map in float32, as a multiple of a forward and backward pass of the same net with gradients of
  its weights (the faster of contiguous and channels-last), the median of alternating runs on one thread.

Needs ``pip install torchvision timm transformers``; what is not installed is left out and said so.
"""

import argparse
import copy
import importlib.util
import json
import statistics
import time
import warnings

import numpy as np
import torch
from lrp_reference import reference_map
from sklearn.pipeline import make_pipeline

from skexmap import DFRClassifier, EmbeddingTransformer, HeatmapTransformer, export_model

N_CLASSES = 5
TORCHVISION = """
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
    mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet34 resnet50
    resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vgg11_bn vit_b_16 wide_resnet50_2
"""
TIMM = """
    beit_base_patch16_224 halonet_h1 bat_resnext26ts mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny
    convmixer_768_32 convnext_zepto_rms convnextv2_atto cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s
    cspnext_tiny davit_tiny deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 densenet121 dla46x_c dpn48b
    edgenext_xx_small efficientformer_l1 efficientformerv2_s0 mobilenetv2_035 efficientnet_b0 efficientvim_m1
    efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_336 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny
    ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto inception_v3
    lcnetv2_small levit_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256 coatnet_pico_rw_224 poolformerv2_s12
    caformer_s18 gmlp_ti16_224 mixer_s32_224 mobilenetv3_small_050 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
    nest_tiny nextvit_small nf_regnet_b0 eca_nfnet_l0 pit_ti_224 pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002
    repghostnet_050 repvit_m1 res2next50 resnest14d resnet10t resnet26t ecaresnet26t seresnet18 resnetv2_18
    resnetv2_50x1_bit rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050
    swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
    tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_224
    vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw
    legacy_xception xception41p xcit_nano_12_p8_224
"""
# Class and small settings of each.
TRANSFORMERS = {
    "Beit": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96},
    "Bit": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4},
    "ConvNext": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "ConvNextV2": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "Cvt": {},
    "Data2VecVision": {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    },
    "DeiT": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96},
    "Dinov2": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "EfficientNet": {
        "width_coefficient": 0.5,
        "depth_coefficient": 0.5,
        "hidden_dim": 640,
        "image_size": 224,
    },
    "FocalNet": {"embed_dim": 24, "depths": [1, 1, 1, 1]},
    "HGNetV2": {},
    "Hiera": {"embed_dim": 32, "depths": [1, 1, 1, 1]},
    "Levit": {},
    "MobileNetV1": {},
    "MobileNetV2": {},
    "MobileViT": {},
    "MobileViTV2": {},
    "PoolFormer": {},
    "Pvt": {},
    "PvtV2": {},
    "RegNet": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "groups_width": 8},
    "ResNet": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "embedding_size": 16},
    "Segformer": {},
    "Siglip": {},
    "SwiftFormer": {},
    "Swin": {"embed_dim": 24, "depths": [1, 1, 1, 1]},
    "Swinv2": {"embed_dim": 24, "depths": [1, 1, 1, 1]},
    "ViT": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96},
    "ViTMSN": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96},
}
IMAGE_SIZES = {"inception_v3": 299, "nextvit_small": 224}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PART", help="names that contain one of these"
    )
    parser.add_argument("--sources", nargs="+", default=list(BUILDERS), choices=list(BUILDERS))
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; 0 leaves the cost out")
    parser.add_argument("--json", help="write the rows to this file")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    print(f"{'net':34} {'source':12} {'map':>9} {'embedding':>12} {'export':>8} {'cost':>6}")
    for source in settings.sources:
        if importlib.util.find_spec(source) is None:
            print(f"{source} is not installed: left out")
            continue
        names, build = BUILDERS[source]
        for name in names:
            if any(part in name.lower() for part in settings.only):
                row = {"net": name, "source": source, **try_net(build, name, settings.rounds)}
                rows.append(row)
                if settings.json:
                    with open(settings.json, "w") as file:
                        json.dump(rows, file, indent=1)
                print(
                    f"{name:34} {source:12} {row['map']:>9} {row['embedding']:>12} {row['export']:>8} {row['cost']:>6}"
                    f"{'  ' + row['why'] if row['why'] else ''}",
                    flush=True,
                )
    right = [row for row in rows if row["map"] not in ("refused", "WRONG")]
    wrong = sum(row["map"] == "WRONG" for row in rows)
    exported = sum(row["export"] == "equal" for row in rows)
    print(
        f"\n{len(rows)} nets: {len(right)} maps right, {wrong} wrong, {len(rows) - len(right) - wrong} refused, ",
        end="",
    )
    print(f"{exported} exported modules equal")
    if wrong:
        raise SystemExit(1)


def torchvision_net(name):
    """Return a net of torchvision and the side of its images."""
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=N_CLASSES), IMAGE_SIZES.get(name, 224)


def timm_net(name):
    """Return a net of timm and the side of its images."""
    import timm

    net = timm.create_model(name, num_classes=N_CLASSES)
    return net, net.default_cfg["input_size"][-1]


def transformers_net(name):
    """Return a small net of transformers and the side of its images."""
    import transformers

    config = getattr(transformers, f"{name}Config")(**TRANSFORMERS[name])
    config.num_labels = N_CLASSES
    net = getattr(transformers, f"{name}ForImageClassification")(config)
    size = getattr(config, "image_size", 224) or 224
    return net, size[0] if isinstance(size, (list, tuple)) else size


BUILDERS = {
    "torchvision": (TORCHVISION.split(), torchvision_net),
    "timm": (TIMM.split(), timm_net),
    "transformers": (list(TRANSFORMERS), transformers_net),
}


def try_net(build, name, rounds):
    """Return the columns of one net."""
    row = {"map": "refused", "embedding": "-", "export": "-", "cost": "-", "why": ""}
    torch.manual_seed(0)
    try:
        net, size = build(name)
        net = with_statistics(net).eval().requires_grad_(False)
        images = torch.randn(2, 3, size, size, dtype=torch.float64)
        double = copy.deepcopy(net).double()
        transformer = HeatmapTransformer(double, size=None, normalize=None, evidence="signed")
        maps = torch.from_numpy(transformer.fit_transform(images)).reshape(images.shape)
    except Exception as error:
        row["why"] = first_words(error)
        return row
    try:
        right = reference_map(double, images)
        distance = (maps - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
        row["map"] = f"{float(distance.max()):.0e}" if distance.max() < 1e-3 else "WRONG"
        row["why"] = "" if distance.max() < 1e-3 else f"relative error {float(distance.max()):.1e}"
    except Exception as error:
        row["map"], row["why"] = "?", f"reference: {first_words(error)}"
    about_head = head(double, size)
    row |= about_head | {"why": "; ".join(filter(None, (row["why"], about_head["why"])))}
    del double
    if rounds:
        row["cost"] = f"{cost(net, size, rounds):.2f}"
    return row


def head(net, size):
    """Return whether the embedding is found and the exported module agrees."""
    X = torch.randn(8, 3, size, size, dtype=torch.float64).numpy()
    y = np.arange(8) % N_CLASSES
    try:
        pipe = make_pipeline(EmbeddingTransformer(net), DFRClassifier(n_retrains=2, random_state=0)).fit(X, y)
    except Exception as error:
        return {
            "embedding": "needs layer=" if "layer=" in str(error) else "refused",
            "why": first_words(error),
        }
    n_features = f"{pipe[-1].coef_.shape[1]}"
    try:
        with torch.no_grad():
            output = export_model(pipe)(torch.from_numpy(X))
    except Exception as error:
        return {"embedding": n_features, "export": "refused", "why": first_words(error)}
    logits = (
        output
        if isinstance(output, torch.Tensor)
        else output["logits"]
        if hasattr(output, "keys")
        else output[0]
    )
    # Some random nets map all images to almost the same embedding, and the standardized head then multiplies its
    # rounding errors: compare the scores with the terms that they are the sum of.
    embedding, head = pipe[0].transform(X), pipe[-1]
    terms = np.abs(embedding) @ np.abs(head.coef_).T + np.abs(head.intercept_)
    difference = (np.abs(logits.numpy() - pipe.decision_function(X)) / terms).max()
    return {
        "embedding": n_features,
        "export": "equal" if difference <= 1e-12 else "DIFFERS",
        "why": "" if difference <= 1e-12 else f"scores differ by {difference:.1e} of their terms",
    }


def cost(net, size, rounds):
    """Return the time of a map as a multiple of a forward and backward pass."""
    images = torch.randn(4, 3, size, size)
    last = torch.channels_last
    candidates = [(copy.deepcopy(net).requires_grad_(True), images)]
    candidates.append(
        (
            copy.deepcopy(net).requires_grad_(True).to(memory_format=last),
            images.contiguous(memory_format=last),
        )
    )
    transformer = HeatmapTransformer(net, size=None, normalize=None).fit(images.numpy())
    times = {0: [], 1: [], "map": []}
    for turn in range(rounds + 1):
        for key in times:
            start = time.perf_counter()
            if key == "map":
                transformer.transform(images.numpy())
            else:
                forward_and_backward(*candidates[key])
            if turn:
                times[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(values) for key, values in times.items()}
    return medians["map"] / min(medians[0], medians[1])


def forward_and_backward(net, images):
    output = net(images)
    logits = (
        output
        if isinstance(output, torch.Tensor)
        else output["logits"]
        if hasattr(output, "keys")
        else output[0]
    )
    logits.max(1).values.sum().backward()


def with_statistics(net):
    """Give batch-norms running statistics, and layers that start with zeros weights, that are not trivial."""
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_().mul_(0.1)
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_().mul_(0.1)
    for values in net.parameters():
        if values.ndim > 1 and not values.any():
            values.data.normal_().mul_(0.05)
    return net


def first_words(error):
    """Return the type and the first 100 characters of an error."""
    return f"{type(error).__name__}: {str(error)[:100]}".replace("\n", " ")


if __name__ == "__main__":
    main()
