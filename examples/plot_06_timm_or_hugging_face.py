"""
A model from timm or Hugging Face
=================================

Models of these libraries work as they are. This example takes timm's smallest ResNet with random weights, because
it runs without a network connection, and trains it for a few epochs. With ``pretrained=True`` you start from
ImageNet weights.
"""

import tempfile

import timm
import torch
from watermarked_photos import CLASSES, files_of, write_photos

from skexmap import ExMapClassifier, HeatmapTransformer
from skexmap.display import GroupGalleryDisplay
from skexmap.features import ImageLoader
from skexmap.lrp import check_model
from skexmap.report import ShortcutReport

torch.manual_seed(0)
net = timm.create_model("test_resnet", pretrained=False, num_classes=2)

# %%
# Can its heatmaps be computed?
# -----------------------------
# :func:`~skexmap.lrp.check_model` runs the model on a few images, and its report lists every operation that has no
# rule.

print(check_model(net, torch.rand(2, 3, 64, 64)).ok)

# %%
# The transform of the model
# --------------------------
# Pass the preprocessing that belongs to the model as `load`. It is applied to the opened image.

transform = timm.data.create_transform(input_size=(3, 64, 64), crop_pct=1.0, is_training=False)
load = ImageLoader(transform)
folder = write_photos(tempfile.mkdtemp())
paths, y = files_of(folder, "train")
images, target = (
    torch.stack([load(path) for path in paths]),
    torch.tensor([CLASSES.index(label) for label in y]),
)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for _ in range(3):
    for rows in torch.randperm(len(target)).split(64):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images[rows]), target[rows]).backward()
        optimizer.step()

# %%
# The rest is the same
# --------------------

X, y = files_of(folder, "heldout")
exmap = ExMapClassifier(net, heatmaps=HeatmapTransformer(load=load), random_state=0).fit(X, y)
print(ShortcutReport.from_estimator(exmap, X, y))
_ = GroupGalleryDisplay.from_estimator(exmap, X, y)

# %%
# Hugging Face
# ------------
# An image classifier of ``transformers`` returns its logits in a field of an object, and names its classes in its
# configuration. Both are read. Only the preprocessing has to be passed::
#
#     from transformers import AutoImageProcessor, AutoModelForImageClassification
#
#     net = AutoModelForImageClassification.from_pretrained(name)
#     processor = AutoImageProcessor.from_pretrained(name)
#
#     def load(path):
#         return processor(PIL.Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"][0]
#
#     exmap = ExMapClassifier(net, heatmaps=HeatmapTransformer(load=load)).fit(paths, labels)
