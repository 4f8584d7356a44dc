"""A body with its trained weights under a new head."""

import logging
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from torch import nn
from torchvision import models

import main
from callbacks import WholeCheckpointIO
from datamodules import Digits
from lightning_modules import (
    CifarResNet,
    Classifier,
    EnsembleClassifier,
    FineTuner,
    MiniVGGNet,
    ResNet,
    TorchvisionModel,
)
from lightning_modules.saved import saved_network


@pytest.mark.parametrize(
    ("architecture", "values"), [("vgg16", 25_088), ("resnet50", 2_048), ("efficientnet_b0", 1_280), ("vit_b_32", 768)]
)
def test_torchvision_bodies(architecture: str, values: int) -> None:
    with torch.device("meta"):
        backbone = TorchvisionModel(1000, 224, architecture)
        model = FineTuner(17, 224, backbone)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 17)
    _, hidden, relu, dropout, last = model.net.head
    assert (hidden.in_features, hidden.out_features) == (values, 256)
    assert (last.in_features, last.out_features) == (256, 17)
    assert isinstance(relu, nn.ReLU)
    assert dropout.p == 0.5
    names = {name.split(".")[1] for name, _ in model.named_parameters()}
    assert names == {"body", "head"}
    head = values * 256 + 256 + 256 * 17 + 17
    old = {"vgg16": models.vgg16, "resnet50": models.resnet50}.get(architecture)
    if old:
        with torch.device("meta"):
            net = old()
        whole = sum(p.numel() for p in net.parameters())
        removed = sum(p.numel() for p in getattr(net, "classifier" if architecture == "vgg16" else "fc").parameters())
        assert sum(p.numel() for p in model.parameters()) == whole - removed + head


@pytest.mark.parametrize(("architecture", "size", "values"), [("googlenet", 64, 1024), ("inception_v3", 299, 2048)])
def test_classifiers_within_a_body_are_left_out(architecture: str, size: int, values: int) -> None:
    with torch.device("meta"):
        model = FineTuner(17, size, TorchvisionModel(1000, size, architecture)).train()
        assert model(torch.empty(2, 3, size, size)).shape == (2, 17)
    assert model.net.head[1].in_features == values
    assert not [name for name, _ in model.named_parameters() if "aux" in name.lower()]


def test_a_network_without_a_head_to_replace_is_refused() -> None:
    with pytest.raises(ValueError, match="SqueezeNet has no linear layer, so that it has no head"):
        FineTuner(17, 64, TorchvisionModel(1000, 64, "squeezenet1_1"))


def test_a_fine_tuned_networks_body_is_the_one_it_got() -> None:
    once = FineTuner(17, 16, MiniVGGNet(10, 16))
    twice = FineTuner(5, 8, once)
    assert twice.net.body is once.net.body
    assert twice(torch.randn(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("architecture", "size", "told"),
    [
        ("vgg16", 31, "vgg16 takes an image_size of at least 32"),
        ("vit_b_32", 64, "vit_b_32 takes an image_size of 224"),
    ],
)
def test_a_size_that_the_body_cannot_take_is_refused(architecture: str, size: int, told: str) -> None:
    with torch.device("meta"):
        backbone = TorchvisionModel(1000, 224, architecture)
    with pytest.raises(ValueError, match=f"the body of {told}, not {size}$"):
        FineTuner(17, size, backbone)


def test_the_head_starts_as_in_keras() -> None:
    head = FineTuner(17, 16, MiniVGGNet(10, 16), hidden=300, dropout=0.3).net.head
    for layer, fans in ((head[1], 64 * 4 * 4 + 300), (head[4], 300 + 17)):
        bound = (6 / fans) ** 0.5  # Glorot & Bengio 2010
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    assert head[3].p == 0.3


def test_a_factor_of_no_part_is_refused() -> None:
    FineTuner(17, 16, MiniVGGNet(10, 16), rate_factors={"net.body": 0.1, "net.head": 1.0})
    with pytest.raises(ValueError, match="rate_factors names net.boddy, of which no weight is a part"):
        FineTuner(17, 16, MiniVGGNet(10, 16), rate_factors={"net.body": 0.1, "net.boddy": 0.0})


@pytest.mark.parametrize("size", [1, 3])
def test_a_size_that_our_networks_body_cannot_take_is_refused(size: int) -> None:
    FineTuner(17, 4, MiniVGGNet(10, 32))
    with pytest.raises(ValueError, match=f"the body of MiniVGGNet takes an image_size of at least 4, not {size}$"):
        FineTuner(17, size, MiniVGGNet(10, 32))


@pytest.mark.parametrize(
    "backbone",
    [MiniVGGNet(5, 16), CifarResNet(5, 16, 8), ResNet(5, 16, [1, 1], [8, 16, 32])],
    ids=lambda b: type(b).__name__,
)
def test_bodies_of_our_networks(backbone: Classifier) -> None:
    model, images = FineTuner(7, 16, backbone, hidden=11).eval(), torch.randn(2, 3, 16, 16)
    backbone.eval()
    seen = {}
    flatten = next(module for module in backbone.modules() if isinstance(module, nn.Flatten))
    flatten.register_forward_hook(lambda _module, _inputs, out: seen.update(features=out))
    backbone(images)
    hidden, last = model.net.head[1], model.net.head[4]
    expected = last(hidden(seen["features"]).relu())
    torch.testing.assert_close(model(images), expected)
    assert model(images).shape == (2, 7)


def fit(
    folder: Path,
    shards: Path,
    model: Classifier,
    ckpt_path: str | None = None,
    epochs: int = 1,
    normalization: str = "unit",
) -> Trainer:
    seed_everything(1, verbose=False)
    trainer = Trainer(
        max_epochs=epochs,
        limit_train_batches=1,
        limit_val_batches=1,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[WholeCheckpointIO()],
    )
    data = Digits(root=str(shards), image_size=16, batch_size=32, normalization=normalization)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "last.ckpt")
    return trainer


def sgd(groups: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0)  # nothing moves, but for running statistics


@pytest.fixture
def backbone(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of MiniVGGNet, trained for a step with normalization unit and Keras' eps."""
    monkeypatch.chdir(tmp_path)
    network = ["--model", "lightning_modules.MiniVGGNet", "--model.batch_norm_eps", "0.001"]
    digits = ["--data", "datamodules.Digits", "--data.root", str(shards), "--data.normalization", "unit"]
    size = ["--data.image_size", "16", "--data.num_workers", "0"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--name", "a"]
    main.run_command(["fit", *network, *digits, *size, *short, *quiet])
    return Path("runs/run/a/checkpoints/best.ckpt").rename(tmp_path / "backbone.ckpt")


def test_weights_are_those_of_the_checkpoint_and_read_once(tmp_path: Path, shards: Path, backbone: Path) -> None:
    file, (trained, _) = backbone, saved_network(backbone)

    def fine_tuner() -> FineTuner:
        return FineTuner(10, 16, MiniVGGNet(10, 16), weights=str(file), optimizer=sgd)

    trainer = fit(tmp_path, shards, fine_tuner())
    kernels = [name for name, weights in trained.named_parameters() if weights.ndim == 4]
    assert len(kernels) == 4
    for name in kernels:
        ours = trainer.lightning_module.get_parameter(name.replace("net.", "net.body.", 1))
        assert torch.equal(ours, trained.get_parameter(name)), name

    file.unlink()  # what follows has checkpoints of its own
    checkpoint = str((tmp_path / "last.ckpt").rename(tmp_path / "tuned.ckpt"))
    fit(tmp_path, shards, fine_tuner(), ckpt_path=checkpoint, epochs=2)
    trainer.test(fine_tuner(), datamodule=trainer.datamodule, ckpt_path=checkpoint, verbose=False)
    with pytest.raises(FileNotFoundError, match="backbone.ckpt is no file"):
        fit(tmp_path, shards, fine_tuner())


def test_torchvision_weights_from_a_file(tmp_path: Path, shards: Path) -> None:
    net = models.shufflenet_v2_x0_5(num_classes=1000)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    backbone = TorchvisionModel(1000, 16, "shufflenet_v2_x0_5", weights=str(tmp_path / "weights.pth"))
    trainer = fit(tmp_path, shards, FineTuner(10, 16, backbone, optimizer=sgd))
    assert torch.equal(trainer.lightning_module.net.body.conv5[0].weight, net.conv5[0].weight)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, shards: Path, backbone: Path) -> None:
    model = FineTuner(10, 16, CifarResNet(10, 16, 8), weights=str(backbone))
    with pytest.raises(ValueError, match="holds another network than this CifarResNet"):
        fit(tmp_path, shards, model)


@pytest.mark.parametrize(
    ("eps", "normalization", "warned"),
    [
        (1e-3, "unit", []),
        (1e-5, "unit", ["eps=0.001, momentum=0.1"]),
        (1e-3, "standardize", ["normalization unit; here it is standardize"]),
    ],
)
def test_what_weights_do_not_hold_is_compared(
    tmp_path: Path,
    shards: Path,
    backbone: Path,
    caplog: pytest.LogCaptureFixture,
    eps: float,
    normalization: str,
    warned: list[str],
) -> None:
    tuner = FineTuner(10, 16, MiniVGGNet(10, 16, batch_norm_eps=eps), weights=str(backbone), optimizer=sgd)
    with caplog.at_level(logging.WARNING, "litvision"):
        fit(tmp_path, shards, tuner, normalization=normalization)
    said = [record.getMessage() for record in caplog.records if record.name == "litvision"]
    assert len(said) == len(warned)
    assert all(words in line and str(backbone) in line for words, line in zip(warned, said, strict=True))


def test_weights_are_loaded_without_a_trainer_too(backbone: Path) -> None:
    inner = FineTuner(10, 16, MiniVGGNet(10, 16), weights=str(backbone))
    outer = FineTuner(5, 16, inner)
    outer.load_pretrained()
    trained, _ = saved_network(backbone)
    assert torch.equal(outer.net.body[0][0].weight, trained.net[0][0].weight)


def test_an_ensemble_has_no_body(tmp_path: Path, backbone: Path) -> None:
    with pytest.raises(ValueError, match="EnsembleClassifier is not one network, so that it has no head to replace"):
        FineTuner(10, 16, EnsembleClassifier(10, 16, [str(backbone)]))


def test_rates_of_parts() -> None:
    factors = {"net.body": 0.1, "net.body.1": 0.5, "net.head": 2.0}
    model = FineTuner(
        7, 16, MiniVGGNet(5, 16), rate_factors=factors, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.2)
    )
    rate_of = {
        id(parameter): group["lr"]
        for group in model.configure_optimizers().param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        factor = 2.0 if name.startswith("net.head") else 0.5 if name.startswith("net.body.1.") else 0.1
        assert rate_of[id(parameter)] == pytest.approx(0.2 * factor), name
    with torch.device("meta"):
        model = FineTuner(17, 224, TorchvisionModel(1000, 224, "vgg16"), rate_factors={"net.body.features.2": 0.5})
    assert model.rate_factor_of("net.body.features.2.weight") == 0.5
    assert model.rate_factor_of("net.body.features.24.weight") == 1.0  # another layer
    with pytest.raises(ValueError, match="rate factor of net.body is -1"):
        FineTuner(7, 16, MiniVGGNet(5, 16), rate_factors={"net.body": -1})
