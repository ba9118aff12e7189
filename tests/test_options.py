from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from latentface.errors import LatentFaceError
from latentface.options import option, parse, read_yaml


@dataclass
class Config:
    """Bakes bread."""

    batch_size: int = option(8, "loaves per batch, 100 % rye")
    heat: float = option(0.5, "share of the full heat")
    model: str = option("oven", "where", choices=("oven", "pan"))
    rates: tuple[int, ...] = option((), "several")
    names: tuple[str, ...] = option(("rye", "oat"), "grains")
    no_salt: bool = option(False, "leave out the salt")
    seeds: bool = option(True, "seeds on top")
    limit: int | None = option(None, "at most so many")
    shape: str = option("", "free text")
    resume: str = option("", "folder to continue", settings_file="config.yaml")


@dataclass
class Required:
    source: str = option(help="where from")
    count: int = option(help="how many")
    speed: int = option(3, "how fast")


@dataclass
class Positional:
    file: str = option(help="what", positional=True)
    others: tuple[str, ...] = option((), "more", positional=True)
    loud: bool = option(False, "shout")


@dataclass
class MaybePositional:
    file: str = option("none", "what", positional=True)


def parsed(*words: str) -> Config:
    return parse(Config, words, "bake")


def refusal(config_class: type, *words: str) -> str:
    with pytest.raises(LatentFaceError) as caught:
        parse(config_class, words, "bake")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def yaml(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "bread.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# --- flags


def test_defaults():
    assert parsed() == Config()
    assert Config().batch_size == 8


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--batch_size 4", Config(batch_size=4)),
        ("--batch-size 4", Config(batch_size=4)),
        ("--batch-size=4", Config(batch_size=4)),
        ("--batch_size 4 --batch-size 5", Config(batch_size=5)),  # the last one counts
        ("--batch_size -4", Config(batch_size=-4)),
        ("--heat 1e-3", Config(heat=0.001)),
        ("--heat 2", Config(heat=2.0)),
        ("--model pan", Config(model="pan")),
        ("--rates 12", Config(rates=(12,))),
        ("--rates 12 25 --heat 1", Config(rates=(12, 25), heat=1.0)),
        ("--names spelt", Config(names=("spelt",))),
        ("--no_salt", Config(no_salt=True)),
        ("--no-salt", Config(no_salt=True)),
        ("--no-seeds", Config(seeds=False)),
        ("--seeds", Config()),
        ("--limit 7", Config(limit=7)),
        ("--shape=--round", Config(shape="--round")),
    ],
)
def test_flags(words, expected):
    assert parsed(*words.split()) == expected


def test_values_have_the_declared_types():
    config = parsed("--heat", "1", "--rates", "1", "--shape", "1")
    assert [type(value) for value in (config.heat, config.rates, config.shape)] == [float, tuple, str]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch_sise 4", "unknown argument --batch_sise (did you mean --batch_size?); see bake --help"),
        ("--batch-sise=4", "unknown argument --batch-sise=4 (did you mean --batch-size?); see bake --help"),
        ("--zzz", "unknown argument --zzz; see bake --help"),
        ("--batch_sizes_of_all_that_there_are 4", "all_that_there_are (did you mean --batch_size?); see bake"),
        ("--batch 4", "unknown argument --batch"),  # no abbreviations
        ("rye", "unknown argument rye"),
        ("--batch_size four", "--batch_size: 'four' is no whole number; see bake --help"),
        ("--batch_size 1.5", "--batch_size: '1.5' is no whole number"),
        ("--batch_size", "expected one argument"),
        ("--rates", "expected at least one argument"),
        ("--heat warm", "--heat: 'warm' is no number"),
        ("--model fire", "'fire' is none of"),
        ("--no_salt yes", "unknown argument yes"),
    ],
)
def test_mistakes(words, message):
    assert message in refusal(Config, *words.split())


def test_what_is_required_is_named():
    assert parse(Required, ["--source", "mill", "--count", "2"], "bake") == Required("mill", 2)
    assert refusal(Required) == "missing: --source, --count; see bake --help"
    assert refusal(Required, "--count", "2") == "missing: --source; see bake --help"


def test_positional_values():
    assert parse(Positional, ["a"], "bake") == Positional("a")
    assert parse(Positional, ["a", "b", "c", "--loud"], "bake") == Positional("a", ("b", "c"), loud=True)
    assert "required: FILE" in refusal(Positional)
    assert parse(MaybePositional, [], "bake") == MaybePositional("none")
    assert parse(MaybePositional, ["a"], "bake") == MaybePositional("a")


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(Config, ["--help"], "bake")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: bake" in text
    assert "Bakes bread." in text
    assert "loaves per batch, 100 % rye (default: 8)" in text
    assert "grains (default: rye oat)" in text
    assert text.count("(default") == 5  # batch_size, heat, model, names, seeds; none where there is nothing to say


# --- YAML


def test_a_file_of_settings(yaml):
    path = yaml("batch_size: 4\nheat: 1\nmodel: pan\nrates: [12, 25]\nnames: spelt\nno_salt: true\nlimit: null\n")
    expected = Config(4, 1.0, "pan", (12, 25), ("spelt",), no_salt=True)
    assert parsed("--config", path) == expected
    assert type(parsed("--config", path).heat) is float


def test_flags_win_over_the_file_and_the_file_over_defaults(yaml):
    path = yaml("batch_size: 4\nrates: [12, 25]\nseeds: true\n")
    assert parsed("--batch_size", "2", "--config", path, "--rates", "75", "--no-seeds") == Config(
        batch_size=2, rates=(75,), seeds=False
    )
    assert parsed("--config", path).batch_size == 4


def test_a_flag_that_repeats_a_default_wins_too(yaml):
    assert parsed("--config", yaml("batch_size: 4"), "--batch_size", "8").batch_size == 8


def test_a_required_value_may_come_from_the_file(yaml):
    assert parse(Required, ["--config", yaml("source: mill"), "--count", "1"], "bake") == Required("mill", 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Config()),
        ("# nothing\n", Config()),
        ("heat: 1e-3", Config(heat=0.001)),  # YAML takes this for a string
        ("batch_size: '4'", Config(batch_size=4)),
        ("batch_size: 4.0", Config(batch_size=4)),
        ("batch_size: 9007199254740993", Config(batch_size=2**53 + 1)),
        ("limit: 7", Config(limit=7)),
        ("limit:", Config()),
        ("shape: 75", Config(shape="75")),
        ("rates: 75", Config(rates=(75,))),
        ("rates: []", Config()),
        ("names: [1, oat]", Config(names=("1", "oat"))),
    ],
)
def test_values_in_yaml(yaml, text, expected):
    assert parsed("--config", yaml(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size: true", "batch_size: True is not of type int"),
        ("batch_size: 1.5", "batch_size: 1.5 is not of type int"),
        ("batch_size: many", "batch_size: 'many' is not of type int"),
        ("batch_size: [4]", "batch_size: [4] is not of type int"),
        ("batch_size: {a: 1}", "batch_size: {'a': 1} is not of type int"),
        ("batch_size: null", "batch_size: None is not of type int"),
        ("batch_size: .inf", "batch_size: inf is not of type int"),
        ("batch_size: .nan", "batch_size: nan is not of type int"),
        ("batch_size: 2020-01-01", "is not of type int"),
        ("heat: warm", "heat: 'warm' is not of type float"),
        ("heat: false", "heat: False is not of type float"),
        ("heat: 1" + 400 * "0", "is not of type float"),
        ("no_salt: 1", "no_salt: 1 is not of type bool"),
        ("no_salt: 'true'", "no_salt: 'true' is not of type bool"),
        ("shape: no", "shape: False is not of type str"),  # YAML takes this for a truth value
        ("rates: [12, [25]]", "rates: [12, [25]] is not of type int"),
        ("rates: [12, true]", "rates: [12, True] is not of type int"),
        ("rates: [12, 2.5]", "rates: [12, 2.5] is not of type int"),
        ("rates: null", "rates: None is not of type int"),
        ("model: fire", "model: 'fire' is none of oven, pan"),
        ("batchsize: 4", "unknown setting 'batchsize' (did you mean batch_size?)"),
        ("batch-size: 4", "unknown setting 'batch-size' (did you mean batch_size?)"),
        ("zzz: 4", "unknown setting 'zzz'"),
        ("1: 4", "unknown setting 1"),
        ("config: other.yaml", "unknown setting 'config'"),
        ("- batch_size", "expected `name: value` lines"),
        ("batch_size", "expected `name: value` lines"),
        ("heat: 1\nrates: [12,\nmodel: pan", "line 3: expected ',' or ']'"),
        ("shape: \x00", "special characters are not allowed"),
        ("shape: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_mistakes_in_yaml(yaml, text, message):
    found = refusal(Config, "--config", yaml(text))
    assert "bread.yaml: " in found
    assert message in found


def test_files_that_cannot_be_read(tmp_path):
    assert "nowhere.yaml: cannot be read" in refusal(Config, "--config", str(tmp_path / "nowhere.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "binary.yaml: cannot be read as YAML" in refusal(Config, "--config", str(tmp_path / "binary.yaml"))


# --- a folder with settings


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("batch_size: 3\nheat: 0.25\n", encoding="utf-8")
    return folder


def test_a_folder_holds_the_settings_to_start_from(folder):
    assert parsed("--resume", str(folder)) == Config(batch_size=3, heat=0.25, resume=str(folder))
    assert parsed("--batch_size", "5", "--resume", str(folder)).batch_size == 5


def test_settings_of_the_folder_win_over_another_file(folder, yaml):
    config = parsed("--config", yaml("batch_size: 7\nlimit: 1"), "--resume", str(folder))
    assert (config.batch_size, config.heat, config.limit) == (3, 0.25, 1)


def test_an_empty_folder_name_means_none():
    assert parsed("--resume", "") == Config()


def test_a_folder_without_settings(tmp_path):
    assert f"--resume {tmp_path}: no config.yaml there" in refusal(Config, "--resume", str(tmp_path))
    (tmp_path / "config.yaml").touch()
    assert f"{tmp_path / 'config.yaml'}: empty" in refusal(Config, "--resume", str(tmp_path))


def test_reading_a_file_alone_gives_only_what_it_says(yaml):
    assert read_yaml(Config, yaml("rates: [12]\nlimit: null")) == {"rates": (12,), "limit": None}


def test_defaults_of_a_caller_stand_below_all_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "bake.yaml").write_text("heat: 0.7\n")
    words = ["--config", str(tmp_path / "bake.yaml"), "--shape", "round"]
    found = parse(Config, words, "bake", {"heat": 0.1, "shape": "flat", "batch_size": 3})
    assert (found.heat, found.shape, found.batch_size) == (0.7, "round", 3)


def test_a_recipe_settles_what_is_left_open() -> None:
    from latentface.training.config import TrainConfig

    modern, original = TrainConfig(), TrainConfig(recipe="retinaface", schedule="cosine")
    assert (modern.optimizer, modern.schedule, modern.average) == ("adamw", "cosine", 0.998)
    assert (original.optimizer, original.schedule, original.average) == ("sgd", "cosine", 0.0)
    assert TrainConfig(average=0.0).average == 0.0
    with pytest.raises(LatentFaceError, match="--recipe best: there are modern, retinaface"):
        TrainConfig(recipe="best")


def test_a_bridge_that_is_left_open_suits_the_network() -> None:
    from latentface.model.config import BACKBONES, fits
    from latentface.training.config import TrainConfig

    modern = {model: TrainConfig(model=model).own_bridge for model in BACKBONES}
    assert modern == {
        "resnet18": "layer3", "resnet34": "layer3", "resnet50": "layer3", "light": "shuffle", "mobilenet": "bilinear"
    }  # fmt: skip
    assert all(fits(model, bridge) for model, bridge in modern.items())
    assert {TrainConfig(model=model, recipe="retinaface").own_bridge for model in BACKBONES} == {"bilinear"}
    assert TrainConfig(teacher="t.pth", photographs="p", fit_entry=9).own_bridge == "bilinear"
    assert TrainConfig(bridge="deep").own_bridge == "deep"
    assert replace(TrainConfig(), model="light").own_bridge == "shuffle"  # nothing is settled before a run begins


def test_weights_of_a_resnet_are_not_taken_for_those_of_another_network() -> None:
    from latentface.training.config import TrainConfig

    assert TrainConfig(model="light").backbone_weights == "none"
    assert TrainConfig(model="light", backbone_weights="r.pth", resume="run").backbone_weights == "none"
    assert TrainConfig().backbone_weights == "imagenet"
    with pytest.raises(LatentFaceError, match=r"--backbone_weights r.pth: goes with a ResNet, not light: leave it out"):
        TrainConfig(model="light", backbone_weights="r.pth")


@dataclass
class Grouped:
    """Bakes."""

    flour: str = option("rye", "grains")
    oven_heat: int = option(200, "degrees", group="the oven")
    fan: bool = option(False, "hot air")


def test_help_has_groups_and_names_each_flag_once(capsys):
    with pytest.raises(SystemExit):
        parse(Grouped, ["--help"], "bake")
    text = capsys.readouterr().out
    assert text.startswith("usage: bake [--flag value ...]\n\nBakes.")
    first, oven = text.split("the oven:\n")
    assert "--flour" in first
    assert [line.split()[0] for line in oven.splitlines() if line.startswith("  --")] == ["--oven_heat", "--fan"]
    assert "--oven-heat" not in text
    assert parse(Grouped, ["--oven-heat", "7"], "bake").oven_heat == 7
