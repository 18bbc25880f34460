"""Progress of long work: scikit-learn's callbacks where it has them (1.9), tqdm or plain lines with ``verbose``."""

import sys
import time
from contextlib import contextmanager
from functools import wraps

__all__ = ["progress", "reports_fit", "step"]


def progress(items, total, description, verbose=False, *, estimator=None):
    """Yield the items of a loop and show how far it is.

    Parameters
    ----------
    items : iterable
    total : int
        Number of items.
    description : str
        What the loop does.
    verbose : bool, default=False
        Whether to show a bar (with tqdm installed) or a line now and then on the standard error.
    estimator : estimator, default=None
        The callbacks set on it hear of the loop and of every item, if its `fit` is running (scikit-learn 1.9).
    """
    context = getattr(estimator, "_callback_fit_ctx", None)
    if context is not None:
        items = _report_to_callbacks(items, total, description, estimator, context)
    if verbose:
        items = _show(items, total, description)
    yield from items


def reports_fit(max_subtasks=0):
    """Decorate a `fit` so that scikit-learn's callbacks hear of its begin and end; put it below `_fit_context`.

    Parameters
    ----------
    max_subtasks : int, default=0
        Number of loops (`progress`) and steps (`step`) in it.
    """

    def decorate(fit):
        @wraps(fit)
        def reported(self, X, y=None, *args, **kwargs):
            if not hasattr(self, "_init_callback_context"):
                # scikit-learn before 1.9 has no callbacks.
                return fit(self, X, y, *args, **kwargs)
            context = self._init_callback_context(max_subtasks=max_subtasks)
            context.call_on_fit_task_begin(estimator=self, X=X, y=y)
            result = fit(self, X, y, *args, **kwargs)
            context.call_on_fit_task_end(estimator=self, X=X, y=y)
            return result

        return reported

    return decorate


@contextmanager
def step(estimator, part, name, X=None, y=None):
    """Run the fit of a part of an estimator as a subtask of the estimator's own, with its callbacks.

    Parameters
    ----------
    estimator : estimator
        Its `fit`, decorated by `reports_fit`, is running.
    part : estimator
        Whose `fit` is called inside the block.
    name : str
        What the step does.
    X, y : array-like
        What the part is fitted on.
    """
    context = getattr(estimator, "_callback_fit_ctx", None)
    if context is None:
        yield
        return
    task = context.subcontext(task_name=name)
    with task.propagate_callback_context(part):
        task.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
        yield
        task.call_on_fit_task_end(estimator=estimator, X=X, y=y)


def _report_to_callbacks(items, total, description, estimator, context):
    loop = context.subcontext(task_name=description, max_subtasks=total)
    loop.call_on_fit_task_begin(estimator=estimator)
    items = iter(items)
    for _ in range(total):
        # An item may be computed when it is asked for or by the body of the loop: the task spans both.
        task = loop.subcontext(task_name=f"{description}: one")
        task.call_on_fit_task_begin(estimator=estimator)
        yield next(items)
        task.call_on_fit_task_end(estimator=estimator)
    loop.call_on_fit_task_end(estimator=estimator)


def _show(items, total, description):
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _print_progress(items, total, description)
    return tqdm(items, total=total, desc=description)


def _print_progress(items, total, description):
    start = time.perf_counter()
    shown = 0
    for done, item in enumerate(items, 1):
        yield item
        # Ten lines for any length of work.
        if done * 10 // total > shown:
            shown = done * 10 // total
            print(f"{description}: {done}/{total} in {time.perf_counter() - start:.0f} s", file=sys.stderr)
