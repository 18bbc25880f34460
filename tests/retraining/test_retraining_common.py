import inspect

from sklearn.utils.estimator_checks import parametrize_with_checks

from skexmap import retraining

ESTIMATORS = [
    cls()
    for name in retraining.__all__
    if inspect.isclass(cls := getattr(retraining, name)) and hasattr(cls, "get_params")
]
NAMES = [type(estimator).__name__ for estimator in ESTIMATORS]


@parametrize_with_checks(ESTIMATORS)
def test_estimator_honours_the_contract_of_scikit_learn(estimator, check):
    check(estimator)
