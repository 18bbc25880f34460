"""Handwritten digits in colored ink, a data set that needs no download."""

import numbers

import numpy as np
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, check_random_state, check_scalar

from skexmap.datasets._splits import INK_NAMES, INKS, aligned_attribute, make_split

CANVAS = 28
# As in MNIST, the digit fills 20 x 20 pixels of the canvas.
DIGIT_SIDE = 20
MARGIN = (CANVAS - DIGIT_SIDE) // 2


def _enlarged_digits():
    """Return scikit-learn's 1,797 digits as (n, 20, 20) intensities in [0, 1], and their digits."""
    digits = load_digits()
    enlarged = zoom(digits.images / 16.0, (1, DIGIT_SIDE / 8, DIGIT_SIDE / 8), order=1)
    return enlarged.astype(np.float32), digits.target


def _place(digits, max_shift, rng):
    """Put each digit on an empty canvas, off center by up to `max_shift` pixels each way."""
    canvas = np.zeros((len(digits), CANVAS, CANVAS), dtype=np.float32)
    corners = MARGIN + rng.randint(-max_shift, max_shift + 1, size=(len(digits), 2))
    for image, digit, (top, left) in zip(canvas, digits, corners, strict=True):
        image[top : top + DIGIT_SIDE, left : left + DIGIT_SIDE] = digit
    return canvas


def _dye(intensities, ink, noise):
    """Return (n, 3, 28, 28) images: each intensity in its ink, plus noise, clipped to [0, 1]."""
    images = INKS[ink][:, :, None, None] * intensities[:, None]
    # The noise swaps channels with the ink, so an image and its twin in the other ink differ only by that swap.
    noise = np.where((ink == 0)[:, None, None, None], noise, noise[:, [1, 0, 2]])
    return np.clip(images + noise, 0.0, 1.0)


def make_colored_digits(
    *,
    correlation=0.98,
    n_copies=5,
    max_shift=2,
    noise=0.05,
    validation_size=0.3,
    test_size=0.3,
    random_state=None,
):
    """Make images of handwritten digits whose ink color is a shortcut for their class.

    The 1,797 digits that scikit-learn ships are enlarged to 20 x 20 and placed on a 28 x 28 canvas, with small random
    shifts and pixel noise. The class is ``digit > 4``. The ink of class 0 is mostly green and that of class 1 mostly
    red, as in colored MNIST [1]_. The train, validation and test splits use *disjoint* handwritten digits.

    Parameters
    ----------
    correlation : float in [0, 1], default=0.98
        Share of each class whose ink agrees with the class, in the train, validation and correlated test splits.
    n_copies : int, default=5
        Number of images of every train and validation digit; each has its own shift, noise and ink.
    max_shift : int from 0 to 4, default=2
        Largest shift from the center along each axis, in pixels.
    noise : float, default=0.05
        Standard deviation of the Gaussian noise on each value; values are clipped to [0, 1] afterward.
    validation_size, test_size : float in (0, 1), default=0.3
        Shares of the handwritten digits kept for validation and test; the rest is for training.
    random_state : int, RandomState instance or None, default=None
        Controls everything that is drawn.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        ``DESCR`` and the splits ``train``, ``validation``, ``test`` (every test digit in *both* inks; images ``i`` and
        ``n_samples / 2 + i`` differ only in ink) and ``test_correlated`` (each test digit in one ink). Each is a Bunch
        with

        ``data`` : ndarray of shape (n_samples, 3, 28, 28), float32, values in [0, 1]
            The images.
        ``target``, ``attributes``, ``group_labels`` : ndarray of shape (n_samples,), int64
            Class (1 if the digit is above 4), ink (0 green, 1 red), and group ``2 * target + ink``: the shortcut fails
            on groups 1 and 2.
        ``digit``, ``source`` : ndarray of shape (n_samples,)
            The digit, and the index of the handwritten digit (of 1,797) from which the image was made.
        ``target_names``, ``attribute_names``, ``group_names`` : list of str
            Names of the classes, attributes and groups.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the validation and test shares leave too few digits for training.

    References
    ----------
    .. [1] M. Arjovsky, L. Bottou, I. Gulrajani, D. Lopez-Paz, "Invariant Risk Minimization", 2019.
       arXiv:1907.02893

    Examples
    --------
    >>> import numpy as np
    >>> from skexmap.datasets import make_colored_digits
    >>> digits = make_colored_digits(correlation=0.99, random_state=0)
    >>> digits.train.data.shape
    (3590, 3, 28, 28)
    >>> np.bincount(digits.train.group_labels)
    array([1782,   18,   18, 1772])
    >>> dict(zip(digits.test.group_names, np.bincount(digits.test.group_labels).tolist()))
    {'digit 0-4, green': 271, 'digit 0-4, red': 271, 'digit 5-9, green': 269, 'digit 5-9, red': 269}
    """
    check_scalar(correlation, "correlation", numbers.Real, min_val=0, max_val=1)
    check_scalar(n_copies, "n_copies", numbers.Integral, min_val=1)
    check_scalar(max_shift, "max_shift", numbers.Integral, min_val=0, max_val=MARGIN)
    check_scalar(noise, "noise", numbers.Real, min_val=0)
    for name, size in [("validation_size", validation_size), ("test_size", test_size)]:
        check_scalar(size, name, numbers.Real, min_val=0, max_val=1, include_boundaries="neither")
    if validation_size + test_size >= 1:
        raise ValueError(
            f"validation_size={validation_size} and test_size={test_size} leave no digits to train on. "
            "Choose shares whose sum is below 1."
        )

    rng = check_random_state(random_state)
    digits, labels = _enlarged_digits()
    classes = (labels > 4).astype(np.int64)
    rest, test = train_test_split(
        np.arange(len(digits)), test_size=test_size, stratify=labels, random_state=rng
    )
    train, validation = train_test_split(
        rest, test_size=validation_size / (1 - test_size), stratify=labels[rest], random_state=rng
    )

    def draw(source):
        intensities = _place(digits[source], max_shift, rng)
        pixel_noise = rng.normal(scale=noise, size=(len(source), 3, CANVAS, CANVAS)).astype(np.float32)
        return intensities, pixel_noise, aligned_attribute(classes[source], correlation, rng)

    def split(source, intensities, pixel_noise, ink):
        return make_split(
            _dye(intensities, ink, pixel_noise),
            classes[source],
            ink,
            target_names=("digit 0-4", "digit 5-9"),
            attribute_names=INK_NAMES,
            digit=labels[source],
            source=source,
        )

    splits = {}
    for name, handwritten in [("train", train), ("validation", validation)]:
        source = np.repeat(handwritten, n_copies)
        splits[name] = split(source, *draw(source))
    intensities, pixel_noise, ink = draw(test)
    splits["test"] = split(
        np.tile(test, 2),
        np.tile(intensities, (2, 1, 1)),
        np.tile(pixel_noise, (2, 1, 1, 1)),
        np.repeat([0, 1], len(test)),
    )
    splits["test_correlated"] = split(test, intensities, pixel_noise, ink)
    return Bunch(**splits, DESCR=make_colored_digits.__doc__)
