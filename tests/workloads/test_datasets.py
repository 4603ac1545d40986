"""Loaders read the official binary formats, name a bad file, and say what to do if there is none."""

import gzip
import io
import os
import re
import tarfile

import numpy as np
import pytest

from lrx.workloads import _files, cifar10, mnist
from lrx.workloads.datasets import DATASETS, load


def write_cifar10(folder, rng):
    folder.mkdir(parents=True)
    kept = {}
    # Every pixel tells its place, and an archive of them is small.
    number, row, column, channel = np.ogrid[:10_000, :32, :32, :3]
    of_record = (31 * row + 7 * column + 101 * channel).astype(np.uint8)
    for place, file in enumerate((*cifar10.TRAIN, cifar10.TEST)):
        images = of_record + (3 * number + 40 * place).astype(np.uint8)
        labels = rng.integers(0, 10, (10_000, 1), dtype=np.uint8)
        planes = images.transpose(0, 3, 1, 2).reshape(10_000, -1)
        np.concatenate([labels, planes], axis=1).tofile(folder / file)
        kept[file] = images, labels[:, 0]
    return kept


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return gzip.compress(header + values.tobytes(), 1)


def write_mnist(folder, rng):
    folder.mkdir(parents=True)
    for part, number in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((number, 28, 28), np.uint8)
        images[:, 3, 5] = 255
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(rng.integers(0, 10, number, dtype=np.uint8)))


@pytest.fixture(scope="module")
def cifar10_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return root, write_cifar10(root / "cifar-10-batches-bin", np.random.default_rng(0))


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache, and a download that fails as it does offline."""
    pooch = pytest.importorskip("pooch")
    tried = []

    def retrieve(url, known_hash, **kwargs):
        tried.append((url, known_hash))
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    monkeypatch.delenv("LRX_DATA_DIR", raising=False)
    return tried


def test_digits_are_uint8_and_balanced_in_both_parts():
    digits = load("digits")
    assert digits.train_images.dtype == np.uint8
    assert digits.train_images.max() == 255
    assert digits.train_labels.dtype == np.int32
    assert not digits.augment
    assert len(digits.train_images) + len(digits.test_images) == 1797
    assert np.bincount(digits.test_labels).min() >= 25
    np.testing.assert_allclose(digits.mean, digits.train_images.mean() / 255, rtol=1e-9)
    np.testing.assert_allclose(digits.std, digits.train_images.std() / 255, rtol=1e-9)


def test_the_first_images_of_a_data_set_keep_its_statistics():
    digits = load("digits")
    few = digits.first(10, 5)
    assert (len(few.train_images), len(few.train_labels), len(few.test_images), len(few.test_labels)) == (10, 10, 5, 5)
    np.testing.assert_array_equal(few.test_labels, digits.test_labels[:5])
    assert few.mean is digits.mean
    assert len(digits.first(10).test_images) == len(digits.test_images)


@pytest.mark.slow
def test_cifar10_files_are_read_channels_last_in_order(cifar10_folder):
    root, kept = cifar10_folder
    loaded = load("cifar10", root)
    assert loaded.train_images.shape == (50_000, 32, 32, 3)
    np.testing.assert_array_equal(loaded.train_images[10_000:20_000], kept["data_batch_2.bin"][0])
    np.testing.assert_array_equal(loaded.test_images, kept["test_batch.bin"][0])
    assert loaded.augment
    np.testing.assert_array_equal(loaded.train_labels[40_000:], kept["data_batch_5.bin"][1])


@pytest.mark.slow
def test_the_folder_of_the_files_itself_and_the_environment_are_taken(cifar10_folder, monkeypatch):
    folder = cifar10_folder[0] / "cifar-10-batches-bin"
    monkeypatch.setenv("LRX_DATA_DIR", str(folder))
    assert _files.find(cifar10.FILES, None) == folder  # as `load` does


def test_a_truncated_file_is_named_with_its_size(tmp_path):
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(bytes(1000))
    with pytest.raises(ValueError, match=r"data_batch_3.bin must have 30,730,000 bytes, got 1,000: it is truncated"):
        cifar10.read(path)


def test_a_label_out_of_range_is_named_with_its_record(tmp_path):
    path = tmp_path / "test_batch.bin"
    content = np.zeros((10_000, 3073), np.uint8)
    content[7, 0] = 10
    content.tofile(path)
    with pytest.raises(ValueError, match=r"test_batch.bin must have labels of 0 to 9, got 10 in record 7"):
        cifar10.read(path)


def test_mnist_files_are_read(tmp_path):
    write_mnist(tmp_path / "mnist", np.random.default_rng(0))
    mnist = load("mnist", tmp_path)
    assert mnist.train_images.shape == (60_000, 28, 28, 1)
    assert mnist.test_images[9_999, 3, 5, 0] == 255
    np.testing.assert_allclose(mnist.mean, 1 / 784, rtol=1e-9)


@pytest.mark.parametrize(
    "content",
    [b"no gzip at all", idx(np.zeros((5, 28, 28), np.uint8)), idx(np.zeros((60_000, 28, 28), np.uint8))[:-100]],
    ids=["not gzip", "fewer images", "truncated"],
)
def test_a_corrupted_mnist_file_is_named(tmp_path, content):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz must"):
        mnist.read_idx(path, (60_000, 28, 28))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cifar10", "data_batch_1.bin ... test_batch.bin from https://www.cs.toronto.edu/"),
        ("mnist", "the four *-ubyte.gz files from https://ossci-datasets."),
    ],
)
def test_offline_and_absent_gives_three_lines_with_a_way_out(no_network, name, wanted, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load(name)
    lines = str(caught.value).split("\n")
    assert len(lines) == 3
    assert f"{name} was not found: tried the cache" in lines[0]
    assert "no route to host" in lines[0]
    assert str(tmp_path / "cache") in lines[1]
    assert wanted in lines[1]
    assert "--data-dir" in lines[1]
    assert "--data digits" in lines[2]
    assert no_network[0][1].startswith("md5:")


def test_a_folder_that_lacks_one_file_is_not_replaced_by_a_download(no_network, tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_2.bin"):
        load("cifar10", tmp_path)
    assert no_network == []


def test_only_the_named_files_come_out_of_an_archive(tmp_path):
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("folder/wanted.bin", "../evil.bin", "folder/other.bin"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    _files.extract(archive, tmp_path / "out", {"folder/wanted.bin"})
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["wanted.bin"]
    assert not (tmp_path / "evil.bin").exists()
    with pytest.raises(ValueError, match=r"a.tar.gz must hold folder/absent.bin"):
        _files.extract(archive, tmp_path / "out", {"folder/absent.bin"})


@pytest.mark.slow
def test_a_download_is_placed_whole_and_used_from_then_on(monkeypatch, tmp_path, cifar10_folder):
    pooch = pytest.importorskip("pooch")
    root, kept = cifar10_folder
    calls = []

    def retrieve(url, known_hash, fname, path, downloader):
        calls.append(url)
        with tarfile.open(path / fname, "w") as tar:
            tar.add(root / "cifar-10-batches-bin", "cifar-10-batches-bin")
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    monkeypatch.delenv("LRX_DATA_DIR", raising=False)
    for _ in range(2):  # as `load` does
        assert _files.find(cifar10.FILES, None) == tmp_path / "cache/cifar-10-batches-bin"
    assert len(calls) == 1
    assert os.listdir(tmp_path / "cache") == ["cifar-10-batches-bin"]
    found = cifar10.read(tmp_path / "cache/cifar-10-batches-bin/test_batch.bin")
    np.testing.assert_array_equal(found[1], kept["test_batch.bin"][1])


def test_an_unknown_name_is_refused_with_the_nearest():
    listed = re.escape(", ".join(DATASETS))
    with pytest.raises(ValueError, match=rf"name must be one of {listed}, got .*did you mean 'cifar10'"):
        load("cifar-10")


real = pytest.mark.skipif(not os.environ.get("LRX_DATA_DIR"), reason="LRX_DATA_DIR names no folder with the real data")


@real
@pytest.mark.slow
def test_real_cifar10_has_its_known_statistics():
    cifar10 = load("cifar10")
    np.testing.assert_allclose(cifar10.mean, [0.49139968, 0.48215841, 0.44653091], atol=1e-8)
    np.testing.assert_allclose(
        (cifar10.test_images / 255).std((0, 1, 2)), [0.24665252, 0.24289226, 0.26159238], atol=1e-8
    )
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10


@real
@pytest.mark.slow
def test_real_mnist_has_its_known_statistics():
    mnist = load("mnist")
    np.testing.assert_allclose([mnist.mean[0], mnist.std[0]], [0.13066048, 0.30810781], atol=1e-8)
