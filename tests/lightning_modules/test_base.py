"""What every Classifier owes, its architecture whatever."""

from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor, nn

import lightning_modules
from lightning_modules import Classifier, MiniVGGNet

RESNET = {"stages": [1, 2], "filters": [8, 16, 32]}
ARCHITECTURES = [
    pytest.param("MiniVGGNet", {}, 16, id="MiniVGGNet"),
    pytest.param("ResNet", RESNET, 16, id="ResNet-cifar"),
    pytest.param("ResNet", {**RESNET, "stem": "tiny_imagenet"}, 16, id="ResNet-tiny_imagenet"),
    pytest.param("CifarResNet", {"depth": 8}, 16, id="CifarResNet"),
    pytest.param("CifarVGG", {}, 32, id="CifarVGG"),
    pytest.param("AlexNet", {}, 67, id="AlexNet"),
    pytest.param("MiniGoogLeNet", {}, 16, id="MiniGoogLeNet"),
    pytest.param("DeeperGoogLeNet", {}, 32, id="DeeperGoogLeNet"),
    pytest.param("DeeperGoogLeNet", {"inception_4": False}, 32, id="DeeperGoogLeNet-without_4"),
    pytest.param("GoogLeNet", {}, 32, id="GoogLeNet"),
    pytest.param("UnpaddedNet", {}, 16, id="UnpaddedNet"),
    pytest.param("TorchvisionModel", {"architecture": "shufflenet_v2_x0_5"}, 64, id="TorchvisionModel"),
]
every_architecture = pytest.mark.parametrize(("name", "arguments", "image_size"), ARCHITECTURES)


class Tiny(Classifier):
    """One of each kind of layer that the optimizer tells apart."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(num_classes=4, image_size=6, **arguments)
        self.net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5 * 4 * 4, 4))


def batch(size: int, num_classes: int, samples: int = 2) -> tuple[Tensor, Tensor]:
    """Images as they arrive, ``(B, 3, H, W)`` seen in ``(B, H, W, 3)``, and their labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(samples, size, size, 3, generator=generator).permute(0, 3, 1, 2)
    return images, torch.randint(num_classes, (samples,), generator=generator)


def build(name: str, arguments: dict, image_size: int, **more: object) -> Classifier:
    torch.manual_seed(0)
    return getattr(lightning_modules, name)(num_classes=7, image_size=image_size, **arguments, **more)


def test_every_exported_classifier_is_tested_here():
    exported = {name for name in lightning_modules.__all__ if issubclass(getattr(lightning_modules, name), Classifier)}
    any_network = {"Classifier", "EnsembleClassifier", "FineTuner"}  # tested by themselves
    assert exported - any_network == {parameter.values[0] for parameter in ARCHITECTURES}


@every_architecture
def test_logits_and_gradients(name, arguments, image_size):
    model = build(name, arguments, image_size)
    images, labels = batch(image_size, 7)
    untouched = images.clone()
    outputs = model.training_step((images, labels), 0)
    assert outputs["logits"].shape == (2, 7)
    assert not outputs["logits"].requires_grad
    outputs["loss"].backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name
    assert torch.equal(images, untouched)


class Pair(nn.Linear):
    """What it gives, twice."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(images)
        return logits, logits


@pytest.mark.parametrize(
    ("last", "given"),
    [
        (nn.Linear(5 * 4 * 4, 10), r"\(2, 10\)"),  # cross-entropy takes them
        (nn.Linear(5 * 4 * 4, 1), r"\(2, 1\)"),
        (nn.Unflatten(1, (5, 4, 4)), r"\(2, 5, 4, 4\)"),
        (Pair(5 * 4 * 4, 4), "tuple"),
    ],
)
@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_a_network_that_does_not_give_logits_is_refused(last, given, step):
    model = Tiny()
    model.net[-1] = last
    with pytest.raises(ValueError, match=rf"Tiny gives .*{given}.* for a batch of 2 pictures.*logits \(2, 4\)"):
        getattr(model, step)(batch(6, 4), 0)


@every_architecture
def test_loaded_weights_give_the_same_logits(name, arguments, image_size, tmp_path: Path):
    images, labels = batch(image_size, 7)
    model = build(name, arguments, image_size)
    model.training_step((images, labels), 0)  # moves the BatchNorm statistics
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = build(name, arguments, image_size)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    model.eval(), other.eval()
    assert not torch.allclose(other(images), model(images))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(images), model(images))


@every_architecture
def test_channels_last_gives_the_same_logits(name, arguments, image_size):
    model = build(name, arguments, image_size).eval()
    images, _ = batch(image_size, 7)
    expected = model(images.contiguous())
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-4)


@every_architecture
def test_bfloat16_is_near_float32(name, arguments, image_size):
    model = build(name, arguments, image_size)
    images, labels = batch(image_size, 7)
    expected = model.eval()(images)
    model.to(torch.bfloat16)
    difference = model(images.bfloat16()).float() - expected
    assert difference.norm() < 0.05 * expected.norm()
    model.train().training_step((images.bfloat16(), labels), 0)["loss"].backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.bfloat16
        assert parameter.grad.isfinite().all(), parameter_name


@every_architecture
def test_exported_for_any_batch_size(name, arguments, image_size):
    model = build(name, arguments, image_size).eval()
    images, _ = batch(image_size, 7)
    program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    more, _ = batch(image_size, 7, samples=3)
    torch.testing.assert_close(program.module()(more), model(more))


@every_architecture
def test_every_parameter_is_optimized_once_and_only_matrices_and_kernels_decay(name, arguments, image_size):
    model = build(name, arguments, image_size, weight_decay=0.125)
    groups = model.configure_optimizers().param_groups
    decay_of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert len(decay_of) == sum(len(group["params"]) for group in groups)
    assert decay_of.keys() == {id(parameter) for parameter in model.parameters()}
    for parameter in model.parameters():
        assert (decay_of[id(parameter)] > 0) == (parameter.ndim > 1)


@every_architecture
def test_built_from_yaml(name, arguments, image_size):
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(Classifier, "model", subclass_mode=True)
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5, "momentum": 0.75}}
    own = {
        "num_classes": 7,
        "image_size": image_size,
        "optimizer": optimizer,
        "weight_decay": 0.25,
        "label_smoothing": 0.125,
    }
    config = {"class_path": f"lightning_modules.{name}", "init_args": {**arguments, **own}}
    model = parser.instantiate(parser.parse_object({"model": config})).model
    assert type(model).__name__ == name
    assert (model.num_classes, model.image_size, model.weight_decay, model.label_smoothing) == (
        7,
        image_size,
        0.25,
        0.125,
    )
    groups = model.configure_optimizers().param_groups
    assert {(group["lr"], group["momentum"]) for group in groups} == {(0.5, 0.75)}
    assert 0.25 in {group["weight_decay"] for group in groups}
    config["init_args"]["weight_deacy"] = 0.1
    with pytest.raises(Exception, match="weight_deacy"):
        parser.parse_object({"model": config})


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adadelta", "RMSprop", "Adam", "NAdam", "AdamW"])
def test_optimizers_of_the_field_from_yaml(name):
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(Classifier, "model", subclass_mode=True)
    optimizer = {"class_path": f"torch.optim.{name}", "init_args": {"lr": 0.01}}
    own = {"num_classes": 4, "image_size": 8, "optimizer": optimizer, "weight_decay": 0.01}
    config = {"class_path": "lightning_modules.MiniVGGNet", "init_args": own}
    model = parser.instantiate(parser.parse_object({"model": config})).model
    optimizer = model.configure_optimizers()
    assert type(optimizer).__name__ == name
    before = {key: weights.clone() for key, weights in model.named_parameters()}
    model.training_step(batch(8, 4), 0)["loss"].backward()
    optimizer.step()
    for key, weights in model.named_parameters():
        assert weights.isfinite().all(), key
        assert not torch.equal(weights, before[key]), key


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_weight_decay_that_would_not_count_is_refused(optimizer):
    Tiny(optimizer=partial(optimizer, lr=0.1), weight_decay=0.3).configure_optimizers()
    with pytest.raises(ValueError, match="weight_decay 0.3 would count for no weight; take --model.weight_decay"):
        Tiny(optimizer=partial(optimizer, lr=0.1, weight_decay=0.3)).configure_optimizers()
    defaults = Tiny(optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.01)).configure_optimizers()
    assert {group["weight_decay"] for group in defaults.param_groups} == {0.0}
    with pytest.raises(ValueError, match="Rprop has no weight decay; take --model.weight_decay 0"):
        Tiny(optimizer=torch.optim.Rprop, weight_decay=0.3).configure_optimizers()
    Tiny(optimizer=torch.optim.Rprop).configure_optimizers()


def test_one_step_of_sgd_is_that_of_the_keras_l2():
    r, rate = 0.03, 0.5
    torch.manual_seed(0)
    model = Tiny(optimizer=partial(torch.optim.SGD, lr=rate), weight_decay=2 * r)
    optimizer = model.configure_optimizers()
    model.training_step(batch(6, 4), 0)["loss"].backward()
    expected = {name: parameter - rate * parameter.grad for name, parameter in model.named_parameters()}
    for name in ("net.0.weight", "net.3.weight"):
        weight = model.get_parameter(name)
        expected[name] = weight - rate * (weight.grad + 2 * r * weight)
    expected = {name: value.detach() for name, value in expected.items()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name])


def test_parts_may_decay_differently():
    class Split(Tiny):
        def weight_decay_of(self, name: str) -> float:
            return 0.5 if name == "net.0.weight" else self.weight_decay

    model = Split(weight_decay=0.25)
    decays = {
        name: group["weight_decay"]
        for group in model.configure_optimizers().param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    zero = dict.fromkeys(("net.0.bias", "net.1.weight", "net.1.bias", "net.3.bias"), 0.0)
    assert decays == {"net.0.weight": 0.5, "net.3.weight": 0.25, **zero}


def test_label_smoothing_is_for_training_only():
    model = Tiny(label_smoothing=0.2)
    images, labels = batch(6, 4, samples=5)
    log_p = model(images).log_softmax(dim=1)
    plain = -log_p[torch.arange(5), labels].mean()
    target = torch.full((5, 4), 0.2 / 4)
    target[torch.arange(5), labels] += 0.8
    smooth = -(target * log_p).sum(dim=1).mean()
    torch.testing.assert_close(model.training_step((images, labels), 0)["loss"], smooth)
    torch.testing.assert_close(model.validation_step((images, labels), 0)["loss"], plain)
    torch.testing.assert_close(model.test_step((images, labels), 0)["loss"], plain)


class WithAuxiliary(Tiny):
    """Two auxiliary classifiers: the logits once more, twofold and threefold."""

    auxiliary_weight = 0.25

    def training_logits(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = self(images)
        return logits, 2 * logits, 3 * logits


def test_auxiliary_classifiers_join_the_loss_of_training():
    model = WithAuxiliary(label_smoothing=0.2)
    images, labels = batch(6, 4, samples=3)
    mixed = torch.tensor([[0.25, 0.75, 0, 0], [0, 0, 1, 0], [0.5, 0, 0, 0.5]])
    logits = model(images)
    for target, given in [(nn.functional.one_hot(labels, 4).float(), labels), (mixed, mixed)]:
        smooth = 0.8 * target + 0.2 / 4
        losses = [-(smooth * (n * logits).log_softmax(dim=1)).sum(dim=1).mean() for n in (1, 2, 3)]
        step = model.training_step((images, given), 0)
        torch.testing.assert_close(step["loss"], losses[0] + 0.25 * (losses[1] + losses[2]))
        assert torch.equal(step["logits"], logits)
        plain = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(model.validation_step((images, given), 0)["loss"], plain)


def test_attention_decays_but_for_its_biases():
    model = Tiny(weight_decay=0.5)
    model.net = nn.MultiheadAttention(8, 2)
    decays = {
        name: group["weight_decay"]
        for group in model.configure_optimizers().param_groups
        for name, parameter in model.net.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    assert decays == {"in_proj_weight": 0.5, "in_proj_bias": 0.0, "out_proj.weight": 0.5, "out_proj.bias": 0.0}


def test_mixed_labels():
    model = Tiny()
    images, _ = batch(6, 4, samples=3)
    mixed = torch.tensor([[0.25, 0.75, 0, 0], [0, 0, 1, 0], [0.5, 0, 0, 0.5]])
    expected = -(mixed * model(images).log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(model.training_step((images, mixed), 0)["loss"], expected)


def test_predictions_are_probabilities():
    model = Tiny().to(torch.bfloat16).eval()
    images, labels = batch(6, 4)
    images = images.to(torch.bfloat16)
    probabilities = model.predict_step((images, labels), 0)
    assert probabilities.dtype == torch.float32
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    assert torch.equal(probabilities.argmax(dim=1), model(images).argmax(dim=1))


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    with pytest.raises(
        ValueError, match=f"tells at least two classes apart, not {classes}; .* subfolder for each class"
    ):
        MiniVGGNet(classes, 8)
