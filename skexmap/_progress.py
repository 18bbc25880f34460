"""Progress of long loops: tqdm where it is installed, plain lines elsewhere."""

import sys
import time


def progress(items, total, description, verbose):
    """Yield the items of a loop; when `verbose`, show how far it is.

    Parameters
    ----------
    items : iterable
    total : int
        Number of items.
    description : str
        What the loop does.
    verbose : bool
    """
    if not verbose:
        yield from items
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield from _print_progress(items, total, description)
        return
    yield from tqdm(items, total=total, desc=description)


def _print_progress(items, total, description):
    start = time.perf_counter()
    shown = 0
    for done, item in enumerate(items, 1):
        yield item
        # Ten lines for any length of work.
        if done * 10 // total > shown:
            shown = done * 10 // total
            print(f"{description}: {done}/{total} in {time.perf_counter() - start:.0f} s", file=sys.stderr)
