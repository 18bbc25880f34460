"""JTT on the whole network, as in its paper, with skorch; only the choice of its settings is ExMap's."""

import numpy as np
import torch
from paper import base_model, methods
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler

from skexmap.retraining import JTTClassifier

# Errors of the first net weigh so much in training the second.
UPWEIGHTS = (5, 20)


def network(seed, n_epochs, learning_rate, n_batches):
    """Return a classifier that trains the small net from scratch, by the recipe of the base model."""
    return NeuralNetClassifier(
        base_model.small_net,
        module__seed=seed,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        optimizer__weight_decay=1e-3,
        lr=learning_rate,
        max_epochs=n_epochs,
        batch_size=128,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[
            ("cosine", LRScheduler("CosineAnnealingLR", T_max=n_epochs * n_batches, step_every="batch"))
        ],
        verbose=0,
    )


def jtt(setting, v, seed, recipe, score):
    """Return the figures of full-network JTT: the first net is trained for one epoch.

    The errors are those on the training images; the weight of an error is chosen by the worst of ExMap's pseudo-groups
    of the validation images, which neither net was trained on.
    """
    X, y = setting.train.data, setting.train.target
    judges = methods.group_labels_of(v, "ExMap, spectral, global")
    n_epochs, learning_rate = recipe["n_epochs"], recipe["learning_rate"]
    n_batches = -(-len(y) // 128)
    models, scores = {}, {}
    for upweight in UPWEIGHTS:
        model = JTTClassifier(
            network(seed, n_epochs, learning_rate, n_batches),
            reference_estimator=network(seed, 1, learning_rate, n_batches),
            upweight=upweight,
        )
        name = f"upweight={upweight}"
        models[name] = model.fit(X, y)
        predicted = model.predict(setting.validation.data)
        scores[name] = methods.judged(v.y, predicted, judges)
    best = max(scores, key=scores.get)
    n_errors = len(models[best].error_set_)
    wrong = np.bincount(setting.train.group_labels[models[best].error_set_], minlength=4)
    return {
        "chosen": best,
        "scores": scores,
        "n_errors": n_errors,
        "errors_per_true_group": wrong.tolist(),
        "tests": score(models[best].predict),
    }
