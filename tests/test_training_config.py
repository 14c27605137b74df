"""Settings of a training: where they come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgate.errors import ConfigError
from qgate.gate.bundle import DEFAULT, read_bundle
from training.config import SHIPPED, find, load_train_config

RECIPE = Path("configs/train.yaml")


def test_each_step_of_the_shipped_recipe_starts_from_what_the_one_before_makes() -> None:
    steps = ("-base", "-weak", "-looks", "")
    base, weak, looks, config = (load_train_config(RECIPE.with_name(f"train{step}.yaml")) for step in steps)
    labels = [("training/labels/train.csv", "all"), ("training/labels/more.csv", "learn")]
    assert [(source.path, source.use) for source in base.sources] == labels
    found = [(source.path, source.use) for source in weak.sources]
    assert found == [*labels, ("training/labels/again.csv", "learn"), ("training/labels/broken.csv", "learn")]
    for later, earlier in ((weak, base), (looks, weak), (config, looks)):
        assert (RECIPE.with_name(str(later.after)).is_file(), later.pretrained) == (True, earlier.output)
        assert later.splits == earlier.splits
    for name in ("targets", "augment", "looks"):
        assert getattr(weak, name) == getattr(base, name)
    assert [(source.path, source.use) for source in config.sources[:2]] == [(part.path, part.use) for part in SHIPPED]
    assert config.sources == looks.sources
    assert config.output == "qgate/gates/default"
    assert not str(config.report_folder).startswith("qgate/")


def test_the_shipped_gate_looks_at_the_whole_face_and_then_closer_at_its_middle() -> None:
    whole, middle = load_train_config(RECIPE).looks
    left, top, right, bottom = middle.preprocessing.crop
    assert (whole.name, whole.preprocessing.crop, whole.ask_from) == ("whole", (0.0, 0.0, 1.0, 1.0), 0.0)
    assert (middle.name, left, top, middle.ask_from > 0) == ("middle", 1 - right, 1 - bottom, True)
    assert middle.preprocessing.size / (right - left) > 2 * whole.preprocessing.size
    assert whole.architecture == middle.architecture


def test_settings_win_in_the_order_of_the_house() -> None:
    config = load_train_config(RECIPE, {"sources": ["a.db", "b"], "name": None}, ["optimiser.epochs=9", "name=mine"])
    assert [(source.path, source.weight) for source in config.sources] == [("a.db", None), ("b", None)]
    assert (config.optimiser.epochs, config.gate_name) == (9, "mine")
    assert config.splits.test == 0.10


def test_what_a_recipe_says_of_its_labels_is_not_said_of_others() -> None:
    assert load_train_config(RECIPE).label_note
    assert load_train_config(RECIPE, {"sources": ["labels.db"]}).label_note is None
    assert load_train_config(RECIPE, {"sources": ["labels.db"]}, ["label_note=Mine."]).label_note == "Mine."


def test_the_shipped_labels_are_drawn_whatever_other_generators_are_named() -> None:
    config = load_train_config(None, {"sources": ["labels.db"]}, ["generators.stylegan2-ada=ffhq.pkl"])
    assert config.generators == {"random-face-2021.7.21.1": "mobile-stylegan", "stylegan2-ada": "ffhq.pkl"}


def test_without_a_recipe_the_shipped_gate_is_refined() -> None:
    config = load_train_config(None, {"sources": ["labels.db"], "output": "some/mygate"})
    card = read_bundle(DEFAULT).card
    assert config.pretrained == "default"
    assert tuple(look.look for look in config.looks) == card.looks
    assert config.license == card.license
    assert (config.optimiser.epochs, config.optimiser.learning_rate) == (3, 1e-4)
    assert config.gate_name == "mygate"
    assert config.report_folder == Path("some/mygate-report")


def test_a_path_of_the_package_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(find(source.path).is_file() for source in SHIPPED)
    assert find("labels.csv") == Path("labels.csv")


OTHER_LOOK = (
    "{name: whole, architecture: {backbone: resnet18}, "
    "preprocessing: {size: 64, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}"
)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("label=x", "unknown setting 'label'; the nearest is "),
        ("optimiser.epochs=0", "optimiser.epochs = 0: "),
        ("sources=[]", "sources = "),
        ("folds=1", "folds = 1: give 2 folds or more"),
        ("targets.suspect_weight=0.5", "targets.suspect_weight = 0.5: suspects are found by gates that did not learn"),
        ("splits.test=0.3", "other splits would test on faces that it learned from"),
        (f"looks=[{OTHER_LOOK}]", "looks.whole.architecture.backbone = 'resnet18': the gate "),
        (f"looks=[{OTHER_LOOK}]", "drop the architecture to refine that gate, or set pretrained to other weights"),
        ("looks=[]", "looks = "),
        ("architecture.backbone=resnet18", "unknown setting 'architecture'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_train_config(None, {}, [assignment])
    assert message in str(caught.value)
