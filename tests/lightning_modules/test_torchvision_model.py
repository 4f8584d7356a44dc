"""Torchvision's classifiers: the networks that it publishes, its weights, and runs that need them only once."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.models.regnet import BlockParams

import main
from datamodules import Digits
from lightning_modules import FineTuner, TorchvisionModel
from lightning_modules.torchvision_model import normalization_of

SMALL = "squeezenet1_1"  # 1.2 million parameters
INPUTS_OF_THE_HEAD = {  # from the tables of the papers
    "alexnet": 4096,
    "vgg16": 4096,
    "resnet18": 512,
    "resnet50": 2048,
    "squeezenet1_0": 512,
    "densenet121": 1024,
    "mobilenet_v3_small": 1024,
    "efficientnet_b0": 1280,
    "regnet_y_400mf": 440,
    "convnext_tiny": 768,
    "vit_b_16": 768,
    "swin_t": 768,
}


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks without memory for their weights; torchvision computes the widths of RegNet with tensors."""
    widths = BlockParams.from_init_params.__func__

    def on_the_cpu(cls: type[BlockParams], **arguments: object) -> BlockParams:
        with torch.device("cpu"):
            return widths(cls, **arguments)

    monkeypatch.setattr(BlockParams, "from_init_params", classmethod(on_the_cpu))
    with torch.device("meta"):
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of a small network for 5 classes."""
    torch.save(models.get_model(SMALL, num_classes=5).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def size_of(model: TorchvisionModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def differing(model: TorchvisionModel, state: dict[str, Tensor]) -> set[str]:
    own = model.net.state_dict()
    assert own.keys() == state.keys()
    return {name for name in own if not torch.equal(own[name], state[name])}


@pytest.mark.parametrize("architecture", INPUTS_OF_THE_HEAD)
def test_published_parameter_count_and_weights_of_1000_classes(meta, monkeypatch, architecture, tmp_path, caplog):
    names = models.get_model_weights(architecture)
    monkeypatch.setattr(torch, "load", lambda *_, **__: models.get_model(architecture).state_dict())
    (tmp_path / "weights.pth").touch()
    model = TorchvisionModel(10, 224, architecture, str(tmp_path / "weights.pth"))
    assert size_of(model) == next(iter(names)).meta["num_params"] - 990 * (INPUTS_OF_THE_HEAD[architecture] + 1)
    with caplog.at_level(logging.INFO, "litvision"):
        model.load_pretrained()
    assert "head of 1000 classes is left out, that of 10 starts from scratch" in caplog.text


def test_published_parameter_count_with_auxiliary_classifiers(meta):
    published = models.Inception_V3_Weights.DEFAULT.meta["num_params"]
    assert size_of(TorchvisionModel(10, 299, "inception_v3")) == published - 990 * (2048 + 1 + 768 + 1)
    published = models.GoogLeNet_Weights.DEFAULT.meta["num_params"]  # counted without them
    assert size_of(TorchvisionModel(10, 224, "googlenet", auxiliary=False)) == published - 990 * (1024 + 1)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", models.list_models(module=models))
def test_every_network(meta, monkeypatch, architecture, tmp_path, caplog):
    monkeypatch.setattr(torch, "load", lambda *_, **__: models.get_model(architecture, **heads).state_dict())
    heads = {"aux_logits": True} if architecture == "googlenet" else {}
    (tmp_path / "weights.pth").touch()
    image_size = 299 if architecture == "inception_v3" else 224
    model = TorchvisionModel(10, image_size, architecture, str(tmp_path / "weights.pth"), weight_decay=0.5)
    with caplog.at_level(logging.INFO, "litvision"):
        model.load_pretrained()
    assert "head of 1000 classes is left out" in caplog.text
    images = torch.empty(2, 3, image_size, image_size)
    assert model(images).shape == model.eval()(images).shape == (2, 10)
    check_groups(model)


@pytest.mark.parametrize("architecture", ["vit_b_32", "swin_t", "swin_v2_t", "convnext_tiny", "maxvit_t"])
def test_parameter_groups_of_transformers(meta, architecture):
    check_groups(TorchvisionModel(10, 224, architecture, weight_decay=0.5))


def check_groups(model: TorchvisionModel) -> None:
    """Each parameter is in one group; kernels and matrices decay, but for those that are no weights of a map."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = model.configure_optimizers().param_groups
    grouped = [(names[id(p)], group["weight_decay"]) for group in groups for p in group["params"]]
    assert sorted(name for name, _ in grouped) == sorted(names.values())
    others = ("class_token", "pos_embedding", "relative_position_bias_table", "logit_scale", "layer_scale")
    for name, decay in grouped:
        assert (decay > 0) == (model.get_parameter(name).ndim > 1 and not name.endswith(others)), name


@pytest.mark.parametrize("architecture", [SMALL, "mobilenet_v3_small", "shufflenet_v2_x1_0"])
def test_logits_are_those_of_torchvision(architecture):
    model = TorchvisionModel(7, 64, architecture).eval()
    theirs = models.get_model(architecture, num_classes=7).eval()
    theirs.load_state_dict(model.net.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), theirs(images))


@pytest.mark.parametrize(
    ("architecture", "image_size", "weights", "name"),
    [("inception_v3", 299, [1, 0.4], ".AuxLogits."), ("googlenet", 32, [1, 0.3, 0.3], ".aux")],
)
def test_auxiliary_classifiers_train(architecture, image_size, weights, name):
    torch.manual_seed(0)
    model = TorchvisionModel(3, image_size, architecture)
    images, labels = torch.randn(2, 3, image_size, image_size), torch.tensor([0, 2])
    torch.manual_seed(1)  # of the dropout
    losses = [-logits.log_softmax(dim=1)[[0, 1], labels].mean() for logits in model.net(images)]
    torch.manual_seed(1)
    loss = model.training_step((images, labels), 0)["loss"]
    torch.testing.assert_close(loss, sum(weight * each for weight, each in zip(weights, losses, strict=True)))
    loss.backward()
    gradients = [parameter.grad for each, parameter in model.named_parameters() if name in each]
    assert gradients
    assert all(gradient.any() for gradient in gradients)


def test_initial_weights_of_googlenet_are_those_of_its_authors():
    """Of deviation 0.01, whatever the size of a layer; torch's own would go by its inputs."""
    weights = TorchvisionModel(3, 32, "googlenet").net.conv1.conv.weight
    assert weights.std().item() == pytest.approx(0.01, rel=5 / (2 * weights.numel()) ** 0.5)


@pytest.mark.parametrize(
    ("architecture", "smallest"),
    [("alexnet", 63), ("squeezenet1_0", 21), (SMALL, 17)],
)
def test_smallest_size(architecture, smallest):
    with pytest.raises(ValueError, match=f"{architecture} .* at least {smallest}, not {smallest - 1}"):
        TorchvisionModel(3, smallest - 1, architecture)
    model = TorchvisionModel(3, smallest, architecture)
    assert model(torch.randn(2, 3, smallest, smallest)).isfinite().all()
    with pytest.raises(RuntimeError):  # on real tensors too
        model(torch.randn(2, 3, smallest - 1, smallest - 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "resnet19"}, "no classifier 'resnet19'; it has .*resnet18"),
        ({"architecture": "fcn_resnet50"}, "no classifier 'fcn_resnet50'"),
        ({"architecture": "inception_v3", "image_size": 298}, "at least 299, not 298; with auxiliary: false less"),
        pytest.param(
            *({"architecture": "inception_v3", "image_size": 74, "auxiliary": False}, "at least 75, not 74$"),
            marks=pytest.mark.slow,
        ),
        ({"architecture": "vgg11", "image_size": 31}, "at least 32, not 31$"),
        ({"architecture": "vit_b_16", "image_size": 40}, "positive multiple of 16, not 40"),
        ({"architecture": "vit_h_14", "image_size": 40}, "positive multiple of 14, not 40"),
        ({"architecture": "maxvit_t", "image_size": 64}, "positive multiple of 224, not 64"),
        ({"image_size": 0}, "resnet18 takes .* not 0"),
    ],
)
def test_impossible_networks(meta, arguments, message):
    with pytest.raises(ValueError, match=message):
        TorchvisionModel(**{"num_classes": 3, "image_size": 64, **arguments})


@pytest.mark.parametrize(("architecture", "image_size"), [("vit_b_32", 64), ("vit_l_16", 32)])
def test_transformers_are_built_for_the_image_size(meta, architecture, image_size):
    model = TorchvisionModel(3, image_size, architecture)
    assert model(torch.empty(2, 3, image_size, image_size)).shape == (2, 3)


def test_weights_of_a_file(file, caplog):
    state = torch.load(file, weights_only=True)
    model = TorchvisionModel(5, 32, SMALL, str(file))
    assert differing(model, state)
    model.load_pretrained()
    assert not differing(model, state)

    model = TorchvisionModel(3, 32, SMALL, str(file))
    head = model.net.classifier[1].weight.clone()
    with caplog.at_level(logging.INFO, "litvision"):
        model.load_pretrained()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "litvision"]
    assert line == f"{file}: the head of 5 classes is left out, that of 3 starts from scratch"
    assert torch.equal(model.net.classifier[1].weight, head)
    state |= {name: model.net.state_dict()[name] for name in ("classifier.1.weight", "classifier.1.bias")}
    assert not differing(model, state)


@pytest.mark.parametrize("weights", [None, ""])
def test_no_weights_are_none_to_load(weights):
    model = TorchvisionModel(5, 32, SMALL, weights)
    assert not model.has_weights
    model.load_pretrained()


@pytest.mark.parametrize("auxiliary", [True, False])
def test_auxiliary_heads_of_other_classes_are_left_out_too(tmp_path, auxiliary):
    state = models.GoogLeNet(num_classes=5, aux_logits=True, init_weights=False).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    model = TorchvisionModel(3, 32, "googlenet", str(tmp_path / "weights.pth"), auxiliary)
    before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    model.load_pretrained()
    layers = ("fc", "aux1.fc2", "aux2.fc2") if auxiliary else ("fc",)
    fresh = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    for name, tensor in model.net.state_dict().items():
        assert torch.equal(tensor, before[name] if name in fresh else state[name]), name


def test_files_that_do_not_fit(tmp_path, file):
    def message_of(weights: Path, **arguments: object) -> str:
        model = TorchvisionModel(
            **{"num_classes": 5, "image_size": 32, "architecture": SMALL, **arguments}, weights=str(weights)
        )
        before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
        with pytest.raises((ValueError, FileNotFoundError)) as raised:
            model.load_pretrained()
        assert not differing(model, before)
        assert str(weights) in str(raised.value)
        return str(raised.value)

    other = message_of(file, architecture="squeezenet1_0")
    assert "another network" in other
    assert "features.0.weight is (64, 3, 3, 3) there and (96, 3, 7, 7) here" in other
    state = torch.load(file, weights_only=True)
    del state["features.0.bias"]
    torch.save(state, tmp_path / "short.pth")
    assert "1 tensors differ, features.0.bias is missing there and (64,) here" in message_of(tmp_path / "short.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    assert "holds no state dict" in message_of(tmp_path / "checkpoint.pth")
    (tmp_path / "damaged.pth").write_bytes(file.read_bytes()[:1000])
    assert "damaged" in message_of(tmp_path / "damaged.pth")
    assert "IMAGENET1K_V1" in message_of(tmp_path / "IMAGENET1K_V7")


def test_weights_of_old_files_without_batch_counts(tmp_path):
    state = models.resnet18(num_classes=5).state_dict()
    torch.save({name: t for name, t in state.items() if "num_batches" not in name}, tmp_path / "old.pth")
    model = TorchvisionModel(5, 32, "resnet18", str(tmp_path / "old.pth"))
    model.load_pretrained()
    assert not differing(model, state)


@pytest.mark.parametrize("architecture", models.list_models(module=models))
def test_normalization_is_that_of_torchvisions_transforms(architecture):
    known = {"symmetric": [[0.5] * 3] * 2, "imagenet": [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]}
    for name, weights in models.get_model_weights(architecture).__members__.items():
        transform = weights.transforms()
        expected = [list(transform.mean), list(transform.std)]
        if architecture in ("googlenet", "inception_v3"):  # the network itself takes ImageNet's to symmetric ones
            assert expected == known["imagenet"]
            expected = known["symmetric"]
        if transform.std[0] == 1 / 255:  # on the scale 0 .. 255; the mean is of other pictures than one's own
            known["channel_mean"] = expected
        assert known[normalization_of(architecture, name)] == expected


@pytest.mark.parametrize("weights", ["published", "a file"])
@pytest.mark.parametrize("within", [False, True])
def test_a_warning_of_pictures_that_are_normalized_otherwise(tmp_path, shards, monkeypatch, caplog, weights, within):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    architecture, file = "shufflenet_v2_x0_5", tmp_path / "published.pth"
    torch.save(models.get_model(architecture).state_dict(), file)
    monkeypatch.setattr(models.get_model_weights(architecture).DEFAULT.value, "url", file.as_uri())
    name = "DEFAULT" if weights == "published" else str(file)

    def warnings(normalization: str) -> list[str]:
        model = TorchvisionModel(10, 32, architecture, name)
        model = FineTuner(10, 32, model) if within else model
        one = trainer()
        one.limit_train_batches, one.limit_val_batches = 1, 2
        caplog.clear()
        one.fit(model, datamodule=Digits(root=str(shards), image_size=32, normalization=normalization))
        return [
            each.getMessage() for each in caplog.records if each.name == "litvision" and each.levelname == "WARNING"
        ]

    said = f"{architecture}'s weights DEFAULT: trained on pictures with normalization imagenet; here it is standardize"
    assert warnings("standardize") == [said] * (weights == "published")
    assert warnings("imagenet") == []


def test_weights_that_torchvision_downloads(tmp_path, monkeypatch):
    """Those of DenseNet have names that torchvision changes as it loads them."""
    state = models.densenet121().state_dict()
    (tmp_path / "there").mkdir()
    published = {  # denselayer1.norm.1.weight for denselayer1.norm1.weight, and no batch counts
        re.sub(r"(norm|conv)(\d)", r"\1.\2", name) if "denselayer" in name else name: tensor
        for name, tensor in state.items()
        if "num_batches" not in name
    }
    torch.save(published, tmp_path / "there/densenet.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(models.DenseNet121_Weights.DEFAULT.value, "url", (tmp_path / "there/densenet.pth").as_uri())
    model = TorchvisionModel(10, 32, "densenet121", "DEFAULT")
    model.load_pretrained()
    state |= {key: model.net.state_dict()[key] for key in ("classifier.weight", "classifier.bias")}
    assert not differing(model, state)
    assert (tmp_path / "home/hub/checkpoints/densenet.pth").exists()


def trainer() -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", logger=False, max_epochs=1, **quiet)


def loader() -> DataLoader:
    return DataLoader([(torch.randn(3, 32, 32), n) for n in range(4)], batch_size=2)


class FirstWeights(Callback):
    """What training starts from."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.state = {name: tensor.clone() for name, tensor in pl_module.net.state_dict().items()}


def test_fit_starts_from_the_weights_and_later_evaluation_keeps_what_was_learned(file):
    model, first, one = TorchvisionModel(5, 32, SMALL, str(file)), FirstWeights(), trainer()
    one.callbacks.append(first)
    one.fit(model, loader())
    state = torch.load(file, weights_only=True)
    assert all(torch.equal(first.state[name], tensor) for name, tensor in state.items())
    learned = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    assert differing(model, state)
    file.unlink()
    trainer().test(model, loader(), verbose=False)
    trainer().fit(model, loader())
    assert differing(model, learned)


@pytest.mark.parametrize("evaluation", ["validate", "test", "predict"])
def test_evaluation_without_a_checkpoint_uses_the_weights(file, evaluation):
    model = TorchvisionModel(5, 32, SMALL, str(file))
    getattr(trainer(), evaluation)(model, loader())
    assert not differing(model, torch.load(file, weights_only=True))


def test_weights_loaded_by_hand_are_not_replaced(file):
    model, other = TorchvisionModel(5, 32, SMALL, str(file)), TorchvisionModel(5, 32, SMALL)
    model.load_state_dict(other.state_dict())
    trainer().validate(model, loader(), verbose=False)
    assert not differing(model, other.net.state_dict())


def test_a_run_needs_the_file_once(file, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(shards)
    main.quieten()
    quick = [
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.limit_train_batches",
        "2",
    ]
    model = [
        "--model",
        "lightning_modules.TorchvisionModel",
        "--model.architecture",
        SMALL,
        "--model.weights",
        str(file),
    ]
    config = ["--config", str(Path(main.__file__).parent / "experiments/quickstart_digits.yaml"), *model]
    main.run_command(["fit", *config, "--name", "a", "--trainer.max_epochs", "1", *quick])
    assert "head of 5 classes is left out, that of 10 starts" in capsys.readouterr().out
    file.unlink()
    run = ["--run", "runs/quickstart_digits/a", *quick]
    main.run_command(["test", *run])
    main.run_command(["predict", *run])
    main.run_command(["fit", *run, "--trainer.max_epochs", "2"])
    assert "left out" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="weights.pth"):
        main.run_command(["fit", *config, "--name", "b", *quick])
