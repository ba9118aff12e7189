"""Training from end to end on drawn pictures: the documented scripts, resume, and everything that can go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, write_tree

from latentface.data.labels import read_labels, write_labels
from latentface.errors import LatentFaceError
from latentface.model.checkpoint import load_checkpoint
from latentface.model.retinaface import RetinaFace
from latentface.training import journal, loop, setup, step
from latentface.training.config import TrainConfig
from latentface.training.journal import read_rows
from latentface.training.loop import train
from latentface.training.ranks import Ranks
from latentface.training.setup import pick_precision


def config(root: Path, out: Path, **changes) -> TrainConfig:
    settings = {"model": "light", "bridge": "shuffle", "epochs": 2, "batch_size": 2, "workers": 0, "device": "cpu"}
    return TrainConfig(dataset_root=str(root), out=str(out), **({"no_wandb": True} | settings | changes))


def state(folder: Path, name: str = "weight_final.pth") -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / name).state


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def run_script(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / script), *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def test_experiment_directory_is_complete(drawn_dataset: Path, tmp_path: Path) -> None:
    folder = train(config(drawn_dataset, tmp_path / "run", rates=(25, 75)))
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.jsonl",
        "curves.png",
        "weight_1.pth",
        "weight_2.pth",
        "weight_best.pth",
        "weight_final.pth",
        "state.pth",
    }
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]["val_ap"]) == {"25", "75"}
    assert rows[0]["loss"] == pytest.approx(
        rows[0]["loss_classes"] + 2 * rows[0]["loss_boxes"] + rows[0]["loss_landmarks"], rel=1e-4
    )
    checkpoint = load_checkpoint(folder / "weight_final.pth")
    assert checkpoint.facts["rates"] == [25, 75]
    assert checkpoint.facts["training"]["batch_size"] == 2
    assert checkpoint.facts["epoch"] == 2
    assert same(checkpoint.state, state(folder, "weight_2.pth"))


def test_same_seed_same_weights_and_workers_change_nothing(drawn_dataset: Path, tmp_path: Path) -> None:
    first = train(config(drawn_dataset, tmp_path / "a", epochs=1, crop=4))
    second = train(config(drawn_dataset, tmp_path / "b", epochs=1, crop=4, workers=2))
    other = train(config(drawn_dataset, tmp_path / "c", epochs=1, crop=4, seed=1))
    assert same(state(first), state(second))
    assert not same(state(first), state(other))


def test_accumulation_changes_less_than_another_seed(tmp_path: Path) -> None:
    """Relative length of the difference of all weights, after two epochs of eight pictures from random weights."""
    write_tree(tmp_path / "train", 8, (75,), seed=1)
    write_tree(tmp_path / "val", 2, (75,), seed=2)

    def weights_after(name: str, **changes) -> torch.Tensor:
        settings = {"optimizer": "sgd", "average": 0.0, "precision": "float32", "val_every": 2} | changes
        found = state(train(config(tmp_path, tmp_path / name, **settings)))
        learned = [value.flatten() for key, value in found.items() if "running" not in key and "normal" not in key]
        return torch.cat([value.double() for value in learned])

    whole = weights_after("whole", batch_size=4)
    halves = weights_after("halves", batch_size=2, accumulate=2)
    other = weights_after("other", batch_size=4, seed=1)
    by_accumulation, by_seed = ((found - whole).norm() / whole.norm() for found in (halves, other))
    assert 0.02 < by_accumulation < 0.06  # 0.04 of the docs, 0.07 of another seed
    assert by_accumulation < 0.75 * by_seed


def test_killed_in_the_first_epoch_is_resumed(
    drawn_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(run, group) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", die)
        with pytest.raises(RuntimeError, match="killed"):
            train(config(drawn_dataset, tmp_path / "killed", epochs=1))
    train(config(drawn_dataset, tmp_path / "x", epochs=1, resume=str(tmp_path / "killed")))
    whole = train(config(drawn_dataset, tmp_path / "whole", epochs=1))
    assert same(state(whole), state(tmp_path / "killed"))


def test_what_fixes_the_order_may_not_change_inside_an_epoch(
    drawn_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(config(drawn_dataset, tmp_path / "run", max_hours=1e-9, rates=(25, 75)))
    with pytest.raises(LatentFaceError, match="stopped with batch_size 2, now it is 3"):
        train(config(drawn_dataset, tmp_path / "x", resume=str(folder), batch_size=3, rates=(25, 75)))
    with pytest.raises(LatentFaceError, match=r"stopped with rates \(25, 75\), now it is \(75,\)"):
        train(config(drawn_dataset, tmp_path / "x", resume=str(folder)))


def test_error_in_a_worker_process_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from latentface.cli import main

    split = write_tree(tmp_path / "train", 300, (75,), seed=5, size=32)  # statistics look at 256 of them
    for path in split.glob("latent/*/latent_75.npy"):
        if path.parent.name not in looked_at(split):
            np.save(path, np.full((256, 2, 2), np.nan, dtype=np.float32))
    arguments = ["--dataset_root", str(tmp_path), "--out", str(tmp_path / "run"), "--model", "light", "--no_wandb"]
    assert main(["train", *arguments, "--workers", "2", "--no_check"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("latentface: error: ")
    assert "NaN or infinite values" in error


def looked_at(split: Path) -> set[str]:
    names = sorted(path.name for path in (split / "latent").iterdir())
    return {names[i] for i in np.linspace(0, len(names) - 1, 256).astype(int)}


def test_start_weights_of_other_priors_are_refused(drawn_dataset: Path, tmp_path: Path) -> None:
    first = train(config(drawn_dataset, tmp_path / "a", epochs=1, prior_sizes=(10, 20, 40, 80, 160, 320)))
    with pytest.raises(LatentFaceError, match="has other priors: give --prior_sizes 10 20 40 80 160 320"):
        train(config(drawn_dataset, tmp_path / "b", weight=str(first / "weight_final.pth")))


def test_max_hours_stops_after_a_step(drawn_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = train(config(drawn_dataset, tmp_path / "run", max_hours=1e-9))
    assert "stopped: the time is up" in capsys.readouterr().out
    assert (folder / "state.pth").exists()
    assert not (folder / "weight_1.pth").exists()


def test_accumulating_single_pictures_sees_every_picture(
    drawn_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    step = loop.take_step
    monkeypatch.setattr(loop, "take_step", lambda run, group: (groups.append(len(group)), step(run, group)))
    train(config(drawn_dataset, tmp_path / "run", epochs=1, batch_size=2, accumulate=3))
    assert groups == [3, 1]  # seven pictures: four batches


def test_documented_scripts(drawn_dataset: Path, tmp_path: Path) -> None:
    """The mission's flags, with a small backbone; then detection with the weights they write."""
    done = run_script(
        "train_retinaface.py", "--dataset_root", str(drawn_dataset), "--epochs", "1", "--batch_size", "4",
        "--lr", "0.001", "--model", "resnet18", "--device", "cpu", "--no_wandb", "--freeze",
        "--backbone_weights", "none", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    weights = tmp_path / "runs" / "resnet18_75_001" / "weight_final.pth"
    assert weights.is_file()
    done = run_script(
        "train.py", "--use_latent", "--latent_dir", str(drawn_dataset / "train/latent"),
        "--val_latent_dir", str(drawn_dataset / "val/latent"),
        "--train_label_file", str(drawn_dataset / "train/labels.txt"),
        "--val_label_file", str(drawn_dataset / "val/labels.txt"),
        "--latent_type", "latent_25.npy", "--model", "resnet18", "--weight", str(weights),
        "--epochs", "1", "--no_wandb", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    latent = next((drawn_dataset / "val/latent").glob("*/latent_75.npy"))
    done = run_script(
        "detection.py", "--latent", str(latent), "--weight", str(weights), "--network", "resnet18", "--conf", "0.6",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "detections" / f"{latent.parent.name}_latent_75.json").read_text())
    assert all(face["score"] >= 0.6 for face in found["faces"])
    done = run_script(
        "detection.py", "--latent", str(latent), "--weight", str(weights), "--network", "resnet50", cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        f"latentface: error: {weights} holds a resnet18, not a resnet50: give --network resnet18"
    ]


def test_channels_are_read_in_part_while_training_only(
    drawn_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading all 256 changes nothing; of three choices each is met; validation reads all of them."""
    plain = train(config(drawn_dataset, tmp_path / "plain", epochs=1))
    all_read = train(config(drawn_dataset, tmp_path / "all", epochs=1, channels_read=(256,)))
    assert same(state(plain), state(all_read))
    seen, validated = set(), set()
    forward = RetinaFace.forward

    def watched(model, *arguments, **options):
        (seen if model.training else validated).add(model.normalisation.channels_read)
        return forward(model, *arguments, **options)

    monkeypatch.setattr(RetinaFace, "forward", watched)
    train(config(drawn_dataset, tmp_path / "part", epochs=6, val_every=6, channels_read=(8, 32, 96)))
    assert (seen, validated) == ({8, 32, 96}, {0})


def test_frozen_backbone_does_not_move(drawn_dataset: Path, tmp_path: Path) -> None:
    folder = train(config(drawn_dataset, tmp_path / "run", freeze=True))
    first, last = state(folder, "weight_1.pth"), state(folder)
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved
    assert not any(name.startswith("backbone.") for name in moved)


def test_start_weights_are_used_with_new_statistics(drawn_dataset: Path, tmp_path: Path) -> None:
    first = train(config(drawn_dataset, tmp_path / "a", epochs=1))
    second = train(
        config(drawn_dataset, tmp_path / "b", epochs=1, rates=(25,), lr=0.0, weight=str(first / "weight_final.pth"))
    )
    learned = {name for name, _ in load_checkpoint(second / "weight_final.pth").build().named_parameters()}
    before, after = state(first), state(second)
    assert all(torch.equal(before[name], after[name]) for name in learned)
    assert after["normalisation.rates"].tolist() == [25]


def test_a_bare_state_dict_goes_on_behind_the_bridge_that_is_named(drawn_dataset: Path, tmp_path: Path) -> None:
    """`deep` at stride 8 and `stride8` at 16 have equal weights, and nothing here says which it is."""
    settings = {
        "dataset_root": str(drawn_dataset), "model": "resnet18", "backbone_weights": "none", "bridge": "deep",
        "stride": 8, "epochs": 1, "lr": 0.0, "average": 0.0, "no_wandb": True, "workers": 0, "no_check": True,
    }  # fmt: skip
    first = load_checkpoint(train(TrainConfig(**settings, out=str(tmp_path / "first"))) / "weight_final.pth")
    torch.save(first.state, tmp_path / "bare.pth")
    assert load_checkpoint(tmp_path / "bare.pth").config.bridge == "stride8"
    second = train(TrainConfig(**settings, weight=str(tmp_path / "bare.pth"), out=str(tmp_path / "second")))
    again = load_checkpoint(second / "weight_final.pth")
    assert (again.config.bridge, again.config.stride) == ("deep", 8)
    assert torch.equal(again.state["class_heads.0.weight"], first.state["class_heads.0.weight"])


def test_finished_run_is_left_alone(drawn_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = train(config(drawn_dataset, tmp_path / "run", epochs=1))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    train(config(drawn_dataset, tmp_path / "x", epochs=1, resume=str(folder), lr=5.0))
    assert "nothing to do: 1 epochs are done" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_checkpoint_says_whether_landmarks_were_taught(tmp_path: Path) -> None:
    split = write_tree(tmp_path / "train", 3, (75,), seed=6)
    labels = read_labels(split / "labels.txt")
    bare = [replace(one, landmarks=np.full_like(one.landmarks, np.nan)) for one in labels.values()]
    assert load_checkpoint(train(config(tmp_path, tmp_path / "a", epochs=1)) / "weight_1.pth").facts["landmarks"]
    write_labels(split / "labels.txt", bare)
    assert not load_checkpoint(train(config(tmp_path, tmp_path / "b", epochs=1)) / "weight_1.pth").facts["landmarks"]


def test_used_directory_is_refused(drawn_dataset: Path, tmp_path: Path) -> None:
    folder = train(config(drawn_dataset, tmp_path / "run", epochs=1))
    with pytest.raises(LatentFaceError, match="already holds a run: continue it with --resume"):
        train(config(drawn_dataset, folder, epochs=1))


def test_loss_that_is_not_finite_names_the_pictures_and_keeps_the_weights(
    drawn_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = step.compute_losses

    def explode(run, batch):
        found = losses(run, batch)
        return found if run.progress.epoch == 0 else found | {"total": found["total"] * float("inf")}

    monkeypatch.setattr(step, "compute_losses", explode)
    with pytest.raises(LatentFaceError, match=r"not finite in epoch 2, batch 1 .*pictures drawn_1_\d, drawn_1_\d"):
        train(config(drawn_dataset, tmp_path / "run"))
    assert all(t.isfinite().all() for t in state(tmp_path / "run", "weight_1.pth").values())


def test_broken_validation_is_found_before_the_first_step(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", 2, (75,), seed=3)
    val = write_tree(tmp_path / "val", 2, (75,), seed=4)
    broken = val / "latent" / "drawn_4_1" / "latent_75.npy"
    array = np.load(broken)
    array[3, 2, 1] = np.nan
    np.save(broken, array)
    with pytest.raises(LatentFaceError, match="NaN or infinite") as caught:
        train(config(tmp_path, tmp_path / "run"))
    assert str(broken) in str(caught.value)


def test_labels_in_pixels_of_the_photographs_stop_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    split = write_tree(tmp_path / "train", 6, (75,), seed=3)
    pictures = read_labels(split / "labels.txt").values()
    write_labels(split / "labels.txt", [replace(one, boxes=one.boxes * 1.9) for one in pictures])
    with pytest.raises(LatentFaceError, match=r"train/labels\.txt:\d+: .*--label_frame source.*; --no_check trains"):
        train(config(tmp_path, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    train(config(tmp_path, tmp_path / "run", epochs=1, no_check=True))
    assert (tmp_path / "run" / "weight_final.pth").is_file()


def test_without_validation_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_tree(tmp_path / "train", 2, (75,), seed=3)
    folder = train(config(tmp_path, tmp_path / "run", epochs=1))
    assert "no validation" in capsys.readouterr().out
    assert (folder / "weight_best.pth").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dataset_root", "nowhere"], "nowhere/train/latent: no such folder"),
        (["--epoch", "3"], "unknown argument --epoch (did you mean --epochs?)"),
        (["--epochs", "0"], "--epochs 0: has to be 1 or more"),
        (
            ["--model", "resnet19"],
            "'resnet19' is none of resnet18, resnet34, resnet50, light, mobilenet (did you mean resnet",
        ),
        (["--dataset_root", "{root}", "--latent_type", "latent_80.npy"], "no latent of rate 80; there are 25, 75"),
        (["--dataset_root", "{root}", "--latent_type", "75"], None),
        (["--dataset_root", "{root}", "--latent_type", "best.npy"], "expected a name like latent_75.npy"),
        (["--dataset_root", "{root}", "--device", "cuda:7"], "--device cuda:7: not available here"),
        (["--dataset_root", "{root}", "--backbone_weights", "gone.pth"], "--backbone_weights gone.pth: no such file"),
        (
            ["--dataset_root", "{root}", "--model", "light", "--backbone_weights", "resnet18.pth"],
            "--backbone_weights resnet18.pth: goes with a ResNet, not light",
        ),
        (["--dataset_root", "{root}", "--weight", "gone.pth"], "gone.pth: no such file"),
        (["--resume", "gone"], "--resume gone: no config.yaml there; give the folder of an earlier run"),
        (["--dataset_root", "{root}", "--seed", "-1"], "--seed -1: cannot be negative"),
        (["--dataset_root", "{root}", "--label_frame", "source"], "needs --image_sizes FILE.json or --image_dir DIR"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str],
    expected: str | None,
    drawn_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    from latentface.cli import main

    monkeypatch.chdir(tmp_path)
    filled = [argument.format(root=drawn_dataset) for argument in arguments]
    if expected is None:  # `75` alone is understood
        assert TrainConfig(latent_type="75").used_rates == (75,)
        return
    assert main(["train", "--no_wandb", *filled]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.startswith("latentface: error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_only_the_documented_packages_are_needed(drawn_dataset: Path, tmp_path: Path) -> None:
    """The Kaggle instructions install torch, torchvision, numpy, opencv, matplotlib and wandb (which brings PyYAML)."""
    script = (
        "import sys\n"
        "for name in ('tqdm', 'scipy', 'safetensors'): sys.modules[name] = None\n"
        "from latentface.cli import main\n"
        "sys.exit(main(['train', *sys.argv[1:]]))\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-c", script, "--dataset_root", str(drawn_dataset), "--model", "light", "--epochs", "1",
            "--no_wandb", "--workers", "0", "--out", str(tmp_path / "run"),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weight_final.pth").is_file()


def test_wandb_logs_offline_without_a_login(
    drawn_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(journal, "_has_login", lambda wandb: False)
    folder = train(config(drawn_dataset, tmp_path / "run", epochs=1, no_wandb=False))
    assert "no login, logging offline" in capsys.readouterr().out
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))


def test_tensorboard_has_the_numbers_and_the_picture_of_the_run(drawn_dataset: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = train(config(drawn_dataset, tmp_path / "run", epochs=1, tensorboard=True))
    train(config(drawn_dataset, folder, resume=str(folder), epochs=2, tensorboard=True))
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    rows = read_rows(folder / "metrics.jsonl")
    for name in ("loss", "lr", "pictures_per_second"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    assert [event.value for event in events.Scalars("val_ap/75")] == pytest.approx([r["val_ap"]["75"] for r in rows])
    assert [event.step for event in events.Images("curves")] == [1, 2]


def test_wandb_missing_is_said_in_one_line(
    drawn_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    train(config(drawn_dataset, tmp_path / "run", epochs=1, no_wandb=False))
    assert "Weights & Biases is not installed" in capsys.readouterr().out


def test_yaml_settings_and_flags_over_them(drawn_dataset: Path, tmp_path: Path) -> None:
    settings = tmp_path / "light.yaml"
    settings.write_text(f"dataset_root: {drawn_dataset}\nmodel: light\nepochs: 5\nworkers: 0\nno_wandb: true\n")
    from latentface.cli import main

    assert main(["train", "--config", str(settings), "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert [row["epoch"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == [1]


def test_workers_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, on_cpu, on_gpu in ((2, 0, 2), (8, 2, 8), (64, 16, 8)):
        monkeypatch.setattr(setup, "cores", lambda cores=cores: cores)
        assert setup.pick_workers(-1, torch.device("cpu"), Ranks()) == on_cpu
        assert setup.pick_workers(-1, torch.device("cuda"), Ranks()) == on_gpu
        assert setup.pick_workers(3, torch.device("cpu"), Ranks()) == 3


def test_precision_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for unit, precision in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(setup, "multiplies_bfloat16", lambda unit=unit: unit)
        assert pick_precision("auto", torch.device("cpu")) == precision
    assert pick_precision("bfloat16", torch.device("cpu")) == torch.bfloat16
