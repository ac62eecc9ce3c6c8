import pytest
import tiny_vision
import torch

from tvlens import ImagePack, TvlensError
from tvlens.vlm import VisionEncoder
from tvlens.vlm.data import encode_views, split_images


@pytest.fixture(scope="module")
def pack():
    return ImagePack.load()


def test_splits_share_neither_artist_nor_category(pack):
    splits = split_images(pack, seed=1)
    assert sum(map(len, splits.values())) == len(pack)
    names = {split: set(images.names) for split, images in splits.items()}
    artists = {split: set(images.artists) for split, images in splits.items()}
    assert not names["train"] & (names["new_categories"] | names["new_artist_and_category"])
    assert artists["new_artist"] == artists["new_artist_and_category"] == {"noto"}
    assert "noto" not in artists["train"] | artists["new_categories"]
    for kind in set(pack.kinds):
        categories = set(pack.where(kind=kind).names)
        share = len(categories & names["new_categories"]) / len(categories)
        assert 0.05 < share < 0.15


def test_splits_depend_on_the_seed_alone(pack):
    names = split_images(pack, seed=1)["train"].names
    assert split_images(pack, seed=1)["train"].names == names
    assert split_images(pack, seed=2)["train"].names != names


def test_split_images_suggests_the_nearest_artist(pack):
    with pytest.raises(TvlensError, match="did you mean 'noto'"):
        split_images(pack, held_out_artist="notto")


def test_encode_views_reads_its_cache(pack, tmp_path, monkeypatch):
    images = pack.where(names=["lion", "rose"])
    encoder = tiny_vision.build_tiny_vlm()[0].vision_encoder
    options = dict(folder=tmp_path, progress=False)
    states = encode_views(encoder, images, count=2, **options)
    assert states.shape[:3] == (len(images), 2, 2) and states.dtype == torch.float16
    monkeypatch.setattr(VisionEncoder, "forward", None)
    torch.testing.assert_close(encode_views(encoder, images, count=2, **options), states)
    with pytest.raises(TvlensError, match=r"views with other settings \(views\)"):
        encode_views(encoder, images, count=3, **options)
