"""The handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels, real data without a download."""

from __future__ import annotations

import os

import numpy as np

from lrx.workloads._dataset import Dataset, make_dataset


def load_digits(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load the 1,797 digits of scikit-learn, 8x8 pixels; every fifth image is a test image.

    `data_dir` is ignored, since the images are bundled.

    Raises:
      ImportError: if scikit-learn is not installed.
    """
    del data_dir
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError('digits come with scikit-learn: pip install "lrx[papers]".') from error
    bundle = datasets.load_digits()
    # 0..16 in steps of 1 becomes 0..255, as in every other data set here.
    images = np.round(bundle.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bundle.target.astype(np.int32)
    test = np.arange(len(images)) % 5 == 0
    return make_dataset("digits", (images[~test], labels[~test]), (images[test], labels[test]))
