"""DCGAN (Radford et al. 2015, arXiv 1511.06434), in the variant for small pictures of Keras' curriculum."""

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.base import keras_defaults
from lightning_modules.network import Network


class Generator(nn.Sequential):
    """Noise ``(B, D)`` to pictures ``(B, channels, S, S)`` in -1..1, each hidden layer normalised after its ReLU."""

    def __init__(self, inputs: int, channels: int, image_size: int) -> None:
        small = image_size // 4
        super().__init__(
            nn.Linear(inputs, 512),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(512),
            nn.Linear(512, 64 * small**2),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(64 * small**2),
            nn.Unflatten(1, (64, small, small)),
            nn.ConvTranspose2d(64, 32, 5, stride=2, padding=2, output_padding=1),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(32),
            nn.ConvTranspose2d(32, channels, 5, stride=2, padding=2, output_padding=1),
            nn.Tanh(),
        )


class Discriminator(nn.Sequential):
    """Pictures ``(B, channels, S, S)`` to logits ``(B, 1)``: positive for those that it takes for real."""

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 32, 5, stride=2, padding=2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(32, 64, 5, stride=2, padding=2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Flatten(),
            nn.Linear(64 * (image_size // 4) ** 2, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 1),
        )


class DCGAN(Network):
    """A generator and the discriminator that it learns from, trained in turns on the same batch.

    Strided convolutions are padded more left and top, where Keras' ``same`` pads more right and bottom: its networks'
    mirror images.

    Args:
        num_classes: number of classes C; linked from the datamodule.
        image_size: height and width S of the pictures in pixels, a multiple of 4; linked from the datamodule.
        channels: 1 for grey pictures, 3 for RGB.
        noise_size: length of the noise vectors, which are uniform in -1..1.
        conditional: show the class to both networks, as one-hot vector beside the noise and as one-hot planes beside
            the picture (Mirza & Osindero 2014, arXiv 1411.1784), so that digits can be asked for by name.
        optimizer: maps parameters to an optimizer; each of the two networks gets one.

    Raises:
        ValueError: if the two strides do not divide ``image_size`` evenly, or ``channels`` is neither 1 nor 3.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        channels: int = 1,
        noise_size: int = 100,
        conditional: bool = False,
        optimizer: OptimizerCallable = torch.optim.Adam,
    ) -> None:
        super().__init__(optimizer)
        if image_size < 4 or image_size % 4:
            raise ValueError(f"DCGAN takes an image_size that is a positive multiple of 4, not {image_size}")
        if channels not in (1, 3):
            raise ValueError(f"DCGAN makes pictures of 1 or 3 channels, not {channels}")
        self.automatic_optimization = False  # two optimizers take turns
        self.num_classes, self.image_size, self.channels = num_classes, image_size, channels
        self.noise_size, self.conditional = noise_size, conditional
        known = num_classes * conditional
        self.generator = Generator(noise_size + known, channels, image_size)
        self.discriminator = Discriminator(channels + known, image_size)
        # statistics that keep up with the generator: Keras would move them by 0.01 of each batch
        keras_defaults(self, batch_norm_momentum=0.1, batch_norm_eps=1e-3)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Pictures ``(B, channels, S, S)`` in -1..1 of noise ``(B, D)``; labels ``(B,)`` matter where conditional."""
        return self.generator(torch.cat([noise, self._one_hot(labels).to(noise)], dim=1))

    def judged(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Logits ``(B,)`` of pictures ``(B, channels, S, S)``: positive for those that look real."""
        planes = self._one_hot(labels)[:, :, None, None].expand(-1, -1, *pictures.shape[2:])
        return self.discriminator(torch.cat([pictures, planes.to(pictures)], dim=1)).squeeze(1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """A step of the discriminator, then one of the generator.

        Gives logits ``(B,)``: ``real`` and ``generated`` of the discriminator before its step, ``fooled`` of the same
        generated pictures after it; and ``loss``, the sum of both losses.
        """
        images, labels = batch
        if self.channels == 1:
            images = images.mean(dim=1, keepdim=True)  # of grey pictures all three are the same
        of_generator, of_discriminator = self.optimizers()
        noise = 2 * torch.rand(len(images), self.noise_size, device=images.device, dtype=images.dtype) - 1
        pictures = self(noise, labels)

        real, generated = self.judged(images, labels), self.judged(pictures.detach(), labels)
        discriminator_loss = (F.softplus(-real).mean() + F.softplus(generated).mean()) / 2
        of_discriminator.zero_grad()
        self.manual_backward(discriminator_loss)
        of_discriminator.step()

        self.discriminator.requires_grad_(False)
        fooled = self.judged(pictures, labels)
        generator_loss = F.softplus(-fooled).mean()
        of_generator.zero_grad()
        self.manual_backward(generator_loss)
        of_generator.step()
        self.discriminator.requires_grad_(True)

        logits = {"real": real.detach(), "generated": generated.detach(), "fooled": fooled.detach()}
        return {"loss": (discriminator_loss + generator_loss).detach(), **logits}

    @torch.no_grad()
    def generate(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Pictures RGB uint8 ``(N, S, S, 3)`` of noise ``(N, D)``, a network in evaluation; see ``forward``."""
        trained = [module for module in self.modules() if module.training]  # of a part that is frozen, not all
        self.eval()
        parts = zip(noise.split(256), labels.split(256), strict=True)
        pictures = torch.cat([self(each.to(self.device, self.dtype), of.to(self.device)) for each, of in parts])
        for module in trained:
            module.training = True
        pixels = ((pictures.float() + 1) * 127.5).round().clamp(0, 255).byte()
        return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu()

    def noise(self, count: int, seed: int) -> Tensor:
        """Noise ``(count, D)`` on the CPU, the same for the same seed, of which no other random number depends."""
        return 2 * torch.rand(count, self.noise_size, generator=torch.Generator().manual_seed(seed)) - 1

    def labels(self, count: int) -> Tensor:
        """Labels int64 ``(count,)``: all classes in turn."""
        return torch.arange(count) % self.num_classes

    def samples(self, count: int, seed: int) -> Tensor:
        """Pictures RGB uint8 ``(count, S, S, 3)`` of ``noise``, of all classes in turn where conditional."""
        return self.generate(self.noise(count, seed), self.labels(count))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """That of the generator and that of the discriminator."""
        return [self.optimizer(network.parameters()) for network in (self.generator, self.discriminator)]

    def on_fit_start(self) -> None:
        """Refuse pictures in another range than that of the generated ones.

        Raises:
            ValueError: says what to set.
        """
        if (kind := self.trainer.datamodule.normalization) != "symmetric":
            raise ValueError(f"DCGAN makes pixels from -1 to 1: take --data.normalization symmetric, not {kind}")

    def _one_hot(self, labels: Tensor) -> Tensor:
        """Class vectors ``(B, C)``, or of no length where they are not shown."""
        if not self.conditional:
            return labels.new_zeros(len(labels), 0)
        return labels if labels.ndim == 2 else F.one_hot(labels, self.num_classes)  # mixup gives vectors
