from functools import partial

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from skexmap._validation import l1_logistic_regression
from skexmap.datasets import make_shortcut_features
from skexmap.retraining import DFRClassifier, DFRClassifierCV

shortcut_features = partial(make_shortcut_features, random_scale=True, random_state=0)


def l1(C, seed=None, **params):
    return l1_logistic_regression(C, max_iter=1000, random_state=seed, **params)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_dfr_is_the_average_of_balanced_refits_in_the_space_of_one_scaler(n_classes):
    X, y, shortcut = shortcut_features(600, n_classes, agreement=0.7)
    groups = y * n_classes + shortcut
    dfr = DFRClassifier(C=0.3, n_retrains=4, random_state=0).fit(X, y, group_labels=groups)

    scaler = StandardScaler().fit(X)
    smallest = np.bincount(groups).min()
    coefs, intercepts = [], []
    for seed in np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=4):
        rng = np.random.RandomState(seed)
        rows = np.concatenate(
            [rng.permutation(np.flatnonzero(groups == group))[:smallest] for group in range(n_classes**2)]
        )
        positives = [1] if n_classes == 2 else range(n_classes)
        models = [l1(0.3, 0, tol=1e-10).fit(scaler.transform(X[rows]), y[rows] == c) for c in positives]
        coefs.append([model.coef_[0] for model in models])
        intercepts.append([model.intercept_[0] for model in models])
    scores = scaler.transform(X) @ np.mean(coefs, axis=0).T + np.mean(intercepts, axis=0)

    # The coefficients apply to raw embeddings.
    np.testing.assert_allclose(X @ dfr.coef_.T + dfr.intercept_, scores, atol=1e-3)
    expected = (scores[:, 0] > 0) if n_classes == 2 else scores.argmax(axis=1)
    assert (dfr.predict(X) == expected).all()


@pytest.mark.parametrize("standardize", [True, False])
def test_reweighting_is_one_weighted_logistic_regression(standardize):
    X, y, shortcut = shortcut_features(500)
    groups = 2 * y + shortcut
    dfr = DFRClassifier(C=0.2, balance="reweight", standardize=standardize).fit(X, y, group_labels=groups)
    counts = np.bincount(groups)
    Z = StandardScaler().fit_transform(X) if standardize else X
    model = l1(0.2, 0, tol=1e-10).fit(Z, y, sample_weight=(counts.min() / counts)[groups])
    np.testing.assert_allclose(dfr.decision_function(X), model.decision_function(Z), atol=1e-3)


@pytest.mark.parametrize("DFR", [DFRClassifier, DFRClassifierCV])
def test_the_subsample_size_shows_a_sliver(DFR):
    X, y, shortcut = shortcut_features(400, agreement=0.75)
    groups = 2 * y + shortcut
    groups[np.flatnonzero(groups == 0)[:7]] = 9
    sizes = np.unique(groups, return_counts=True)[1]
    fitted = DFR(n_retrains=1, random_state=0).fit(X, y, group_labels=groups)
    assert fitted.subsample_size_ == 7
    fitted = DFR(n_retrains=1, min_group_size=8, random_state=0).fit(X, y, group_labels=groups)
    assert fitted.subsample_size_ == np.sort(sizes)[1]
    # Classes as groups may all be small: nothing is cut.
    rows = np.r_[np.flatnonzero(y == 0)[:4], np.flatnonzero(y == 1)[:2]]
    assert DFR(n_retrains=1, random_state=0).fit(X[rows], y[rows]).subsample_size_ == 4


def test_a_constant_feature_gets_finite_coefficients():
    X, y, shortcut = shortcut_features(300)
    X[:, 5] = 7.0
    dfr = DFRClassifier(n_retrains=2, random_state=0).fit(X, y, group_labels=2 * y + shortcut)
    assert np.isfinite(dfr.coef_).all()
    assert dfr.coef_[0, 5] == 0


def test_group_labels_given_to_a_search_do_not_reach_fit_unless_requested():
    X, y, shortcut = shortcut_features(300)
    groups = 2 * y + shortcut
    seen = []

    def worst(y_true, y_pred, *, group_labels):
        seen.append(len(group_labels))
        return min((y_true == y_pred)[group_labels == g].mean() for g in np.unique(group_labels))

    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(worst).set_score_request(group_labels=True)
        dfr = DFRClassifier(n_retrains=2, random_state=0)
        search = GridSearchCV(dfr, {"C": [1.0, 0.1]}, scoring=scorer, cv=3).fit(X, y, group_labels=groups)
        assert seen
        assert search.best_estimator_.groups_.tolist() == [0, 1]
        asked = clone(dfr).set_fit_request(group_labels=True)
        search = GridSearchCV(asked, {"C": [1.0, 0.1]}, scoring=scorer, cv=3).fit(X, y, group_labels=groups)
        assert search.best_estimator_.groups_.tolist() == [0, 1, 2, 3]
