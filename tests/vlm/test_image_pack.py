import pytest

import tvlens as tv
from tvlens import ImagePack, Task, TvlensError
from tvlens.vlm.augmentation import render_on_white

pytestmark = pytest.mark.no_arithmetic


@pytest.fixture(scope="module")
def pack():
    return ImagePack.load()


def test_load_gives_complete_pack(pack):
    assert len(pack.artist_names) == 10
    assert set(pack.kinds) == {"animal", "flag", "food", "object", "plant"}
    by_artist = {artist: pack.where(artist=artist) for artist in pack.artist_names}
    categories = set(by_artist["noto"].names)
    for artist, images in by_artist.items():
        assert len(set(images.names)) == len(images) >= 190
        assert set(images.names) <= categories, artist
    assert min(pack.names.count(name) for name in categories) >= 3
    assert pack.read_pixels(0).shape == (64, 64, 4)
    assert len(set(pack.files)) > 0.99 * len(pack)


def test_flag_of_france_is_blue_white_red_by_every_artist(pack):
    flags = pack.where(kind="flag", names=["France"])
    assert len(flags) >= 6
    for row in range(len(flags)):
        stripe = render_on_white(flags.read_pixels(row), size=64)[20:44].astype(int)
        left, middle, right = (stripe[:, x : x + 4].mean((0, 1)) for x in (14, 30, 46))
        is_blue, is_red = left.argmax() == 2, right.argmax() == 0
        assert is_blue and is_red and middle.min() > 180, flags.artists[row]


def test_where_selects_images_that_a_task_can_show(pack):
    cats = pack.where(names=["lion", "tiger"], artist="noto").by_name()
    assert set(cats) == {"lion", "tiger"}
    task = Task("cry", [("lion", "roar"), ("ant", "none"), ("tiger", "roar")]).with_images(cats)
    assert [x for x, _ in task] == ["lion", "tiger"]
    assert task.shown(task.pairs[0], "image")[0].read_pixels().shape == (64, 64, 3)


def test_by_name_needs_one_artist(pack):
    with pytest.raises(TvlensError, match="several artists drew the same categories"):
        pack.where(names=["lion"]).by_name()


@pytest.mark.parametrize("wrong", [{"artist": "nota"}, {"kind": "animals"}, {"names": ["lyon"]}])
def test_where_suggests_the_nearest_valid_value(pack, wrong):
    with pytest.raises(TvlensError, match="did you mean"):
        pack.where(**wrong)


def test_match_resolves_synonyms(pack):
    noto = pack.where(artist="noto")
    files = noto.match(["cherry", "lion", "nothing"])
    assert list(files) == ["cherry", "lion"]
    assert files["cherry"] == noto.by_name()["cherries"]


def test_former_name_warns_and_works(monkeypatch):
    from tvlens import deprecation

    monkeypatch.setattr(deprecation, "_warned", set())
    with pytest.warns(DeprecationWarning, match=r"tvlens\.Pictures is deprecated: use tvlens\.Im"):
        assert tv.Pictures is ImagePack
