"""DCGAN against the table of its layers, and its step against the same written out by hand."""

import copy
import math
from argparse import ArgumentError

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import main
from lightning_modules import DCGAN
from lightning_modules.dcgan import Discriminator, Generator


def trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_published_parameter_counts() -> None:
    # linear, BatchNorm, linear, BatchNorm, transposed convolution, BatchNorm, transposed convolution
    batch_norms = 2 * 512 + 2 * 3136 + 2 * 32
    assert trainable(Generator(100, 1, 28)) == 51_712 + 1_608_768 + 51_232 + 801 + batch_norms == 1_719_873
    discriminator = (25 * 32 + 32) + (25 * 32 * 64 + 64) + (3136 * 512 + 512) + (512 + 1)
    assert trainable(Discriminator(1, 28)) == discriminator


def test_generator_normalises_after_the_relu_and_ends_in_tanh() -> None:
    model = Generator(7, 2, 8).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    rest = iter(model.parameters())

    def relu_norm(x: Tensor) -> Tensor:
        return F.batch_norm(x.relu(), None, None, next(rest), next(rest), training=True)

    def doubled(x: Tensor, channels: int) -> Tensor:
        weight, bias = next(rest), next(rest)
        assert weight.shape == (x.shape[1], channels, 5, 5)
        full = F.conv_transpose2d(x, weight, bias, stride=2)
        return full[:, :, 2:-1, 2:-1]  # three lines too many, of which the last is kept more

    noise = torch.randn(3, 7, dtype=torch.float64)
    x = relu_norm(F.linear(noise, next(rest), next(rest)))
    x = relu_norm(F.linear(x, next(rest), next(rest))).reshape(3, 64, 2, 2)
    x = relu_norm(doubled(x, 32))
    torch.testing.assert_close(model(noise), doubled(x, 2).tanh())
    assert next(rest, None) is None


def test_discriminator_is_leaky_by_a_fifth() -> None:
    model = Discriminator(2, 8).double()
    rest = iter(model.parameters())

    def leaky(x: Tensor) -> Tensor:
        return x.clamp(min=0) + 0.2 * x.clamp(max=0)

    x = pictures = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    for _ in range(2):
        x = leaky(F.conv2d(x, next(rest), next(rest), stride=2, padding=2))
    x = leaky(F.linear(x.flatten(1), next(rest), next(rest)))
    torch.testing.assert_close(model(pictures), F.linear(x, next(rest), next(rest)))


def test_both_networks_start_as_in_keras() -> None:
    model = DCGAN(10, 28)
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    assert len(layers) == 4 + 4
    for layer in layers:
        area = layer.weight[0, 0].numel()
        bound = math.sqrt(6 / (area * (layer.weight.shape[0] + layer.weight.shape[1])))
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert [(norm.momentum, norm.eps) for norm in norms] == [(0.1, 1e-3)] * 3


def test_minus_one_is_black_and_one_is_white() -> None:
    model = DCGAN(10, 28, noise_size=4)
    model.generator = nn.Unflatten(1, (1, 2, 2))  # its noise is its picture
    (picture,) = model.generate(torch.tensor([[-1.0, -0.5, 0.5, 1.0]]), model.labels(1))
    assert picture.tolist() == [[[0] * 3, [64] * 3], [[191] * 3, [255] * 3]]


@pytest.mark.parametrize(("image_size", "channels", "conditional"), [(28, 1, False), (32, 3, True), (8, 1, True)])
def test_shapes_and_range(image_size: int, channels: int, conditional: bool) -> None:
    model = DCGAN(10, image_size, channels, conditional=conditional)
    pictures = model(model.noise(6, seed=1), model.labels(6))
    assert pictures.shape == (6, channels, image_size, image_size)
    assert pictures.abs().max() <= 1
    assert model.judged(pictures, model.labels(6)).shape == (6,)
    samples = model.samples(5, seed=1)
    assert (samples.shape, samples.dtype) == ((5, image_size, image_size, 3), torch.uint8)
    assert model.training  # as it was


def test_samples_leave_a_frozen_part_in_its_mode() -> None:
    model = DCGAN(10, 8)
    model.generator[2].eval()
    model.samples(5, seed=1)
    assert [name for name, module in model.named_modules() if not module.training] == ["generator.2"]


def test_the_class_matters_where_it_is_shown_and_only_there() -> None:
    for conditional in (False, True):
        model = DCGAN(10, 28, conditional=conditional).eval()
        noise = model.noise(1, seed=0).expand(2, -1)
        three_and_seven = torch.tensor([3, 7])
        first, second = model(noise, three_and_seven)
        assert torch.equal(first, second) != conditional
        first, second = model.judged(torch.zeros(2, 1, 28, 28), three_and_seven)
        assert torch.equal(first, second) != conditional


def test_noise_is_uniform_and_of_its_seed_alone() -> None:
    model = DCGAN(10, 28)
    torch.manual_seed(0)
    first = model.noise(1000, seed=7)
    torch.rand(3)
    assert torch.equal(first, model.noise(1000, seed=7))
    assert not torch.equal(first, model.noise(1000, seed=8))
    assert -1 <= first.min() < -0.99
    assert 0.99 < first.max() <= 1
    assert abs(first.var().item() - 1 / 3) < 0.01


def by_hand(model: DCGAN, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of a step by plain torch, which changes the model: binary cross-entropies of ones and zeros."""
    optimizers = [torch.optim.SGD(network.parameters(), 0.1) for network in (model.generator, model.discriminator)]
    pictures = model.generator(noise)
    logits = model.discriminator(torch.cat([images[:, :1], pictures.detach()]))
    targets = torch.cat([torch.ones(len(images), 1), torch.zeros(len(images), 1)])
    discriminator_loss = F.binary_cross_entropy(logits.sigmoid(), targets)
    discriminator_loss.backward()
    optimizers[1].step()
    model.zero_grad()
    generator_loss = F.binary_cross_entropy(model.discriminator(pictures).sigmoid(), torch.ones(len(images), 1))
    generator_loss.backward()
    optimizers[0].step()
    return discriminator_loss, generator_loss


def test_a_step_is_one_of_each_network(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = DCGAN(10, 28, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1))
    other = copy.deepcopy(model)
    images = torch.rand(4, 1, 28, 28).expand(-1, 3, -1, -1) * 2 - 1
    optimizers = model.configure_optimizers()
    monkeypatch.setattr(model, "optimizers", lambda: optimizers)
    monkeypatch.setattr(model, "manual_backward", lambda loss: loss.backward())
    torch.manual_seed(1)
    outputs = model.training_step((images, model.labels(4)), 0)
    torch.manual_seed(1)
    losses = by_hand(other, images, 2 * torch.rand(4, 100) - 1)
    torch.testing.assert_close(outputs["loss"], sum(losses).detach())
    torch.testing.assert_close(F.softplus(-outputs["fooled"]).mean(), losses[1].detach())
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("arguments", "said"), [((30, 1), "multiple of 4, not 30"), ((28, 2), "1 or 3 channels")])
def test_refused(arguments: tuple[int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DCGAN(10, *arguments)


def test_another_range_of_pixels_is_refused(shards, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--model", "lightning_modules.DCGAN", "--data", "datamodules.Digits", "--data.root", str(shards)]
    with pytest.raises(ValueError, match="--data.normalization symmetric, not standardize"):
        main.run_command(["fit", *given, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"])


DIGITS = ["--data", "datamodules.Digits", "--data.normalization", "symmetric", "--data.num_workers", "0"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.mark.parametrize("conditional", ["true", "false"])
def test_weights_of_16_bits_and_mixed_labels(shards, tmp_path, monkeypatch: pytest.MonkeyPatch, conditional) -> None:
    monkeypatch.chdir(tmp_path)
    network = ["--model", "lightning_modules.DCGAN", "--model.conditional", conditional]
    mixed = ["--data.batch_augment", "datamodules.BatchAugment", "--data.batch_augment.mixup", "0.2"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.precision", "bf16-true"]
    montage = ["--trainer.callbacks", "callbacks.Montage", "--name", "a"]
    main.run_command(["fit", *network, *DIGITS, "--data.root", str(shards), *mixed, *short, *montage, *QUIET])
    assert (tmp_path / "runs/run/a/checkpoints/last.ckpt").exists()


def test_steps_of_which_two_optimizers_make_one_too_many(shards, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seldom = ["--trainer.callbacks", "callbacks.LastCheckpoint", "--trainer.callbacks.every_epochs", "9"]
    given = ["--model", "lightning_modules.DCGAN", *DIGITS, "--data.root", str(shards), "--name", "a", *seldom]
    main.run_command(["fit", *given, "--trainer.max_steps", "3", "--trainer.max_epochs", "9", *QUIET])
    assert torch.load(tmp_path / "runs/run/a/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.parametrize(
    ("command", "what"),
    [("fit --then test", "test"), ("test", "test"), ("validate", "validate"), ("predict", "predict")],
)
def test_there_is_nothing_but_training(
    shards, tmp_path, monkeypatch: pytest.MonkeyPatch, command: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    network = ["--model", "lightning_modules.DCGAN", "--name", "a"]
    with pytest.raises(ArgumentError, match=f"DCGAN has no .*_step: there is nothing to {what}; README"):
        main.run_command([*command.split(), *network, *DIGITS, "--data.root", str(shards), *QUIET])
    assert not (tmp_path / "runs/run/a").exists()
