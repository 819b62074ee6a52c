"""Names of views: with and without those of mirrored photos."""

from kinembed.views import with_tta, without_tta


def test_mirrored_views_stand_after_the_views_that_they_mirror() -> None:
    assert with_tta(("max", "native")) == ("max", "max-flip", "native", "native-flip")
    assert with_tta(()) == ()


def test_without_tta_undoes_with_tta_and_names_each_view_once() -> None:
    for views in ((), ("max",), ("native", "max", "map-max")):
        assert without_tta(with_tta(views)) == views
        assert without_tta(views) == views
    assert without_tta(("avg-flip", "max")) == ("avg", "max")
