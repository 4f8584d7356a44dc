"""Published trainings on CIFAR-10 in Keras 2 itself; benchmarks/keras_parity.py calls it.

Runs in an environment of its own, which has none of this project's packages. Prints a line of JSON for each epoch.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf
from tensorflow.keras import layers
from tensorflow.keras.optimizers.legacy import SGD

CLASSES, SIZE, BATCH = 10, 32, 64
NAMES = {"loss": "train/loss", "accuracy": "train/top1", "val_loss": "val/loss", "val_accuracy": "val/top1"}


def split(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures float32 ``(N, 32, 32, 3)``, 0 to 255, and one-hot labels of a packed set."""
    images, labels = [], []
    for path in sorted(folder.glob(f"{name}-*.h5")):
        with h5py.File(path) as file:
            images.append(file["images"][:])
            labels.append(file["labels"][:])
    return np.concatenate(images).astype("float32"), np.eye(CLASSES)[np.concatenate(labels)]


def mini_vggnet() -> tf.keras.Model:
    """Each normalisation after its ReLU, Keras' own initial weights."""
    model = tf.keras.Sequential([layers.Input((SIZE, SIZE, 3))])
    for channels in (32, 64):
        for _ in range(2):
            for layer in (
                layers.Conv2D(channels, 3, padding="same"),
                layers.Activation("relu"),
                layers.BatchNormalization(),
            ):
                model.add(layer)
        model.add(layers.MaxPooling2D(2))
        model.add(layers.Dropout(0.25))
    for layer in (
        layers.Flatten(),
        layers.Dense(512),
        layers.Activation("relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(CLASSES),
        layers.Activation("softmax"),
    ):
        model.add(layer)
    return model


def mini_googlenet() -> tf.keras.Model:
    """Each normalisation before its ReLU, Keras' own initial weights."""

    def conv(x: tf.Tensor, channels: int, kernel: int, stride: int = 1, padding: str = "same") -> tf.Tensor:
        x = layers.Conv2D(channels, kernel, stride, padding)(x)
        return layers.Activation("relu")(layers.BatchNormalization()(x))

    def inception(x: tf.Tensor, ones: int, threes: int) -> tf.Tensor:
        return layers.concatenate([conv(x, ones, 1), conv(x, threes, 3)])

    def downsample(x: tf.Tensor, channels: int) -> tf.Tensor:
        return layers.concatenate([conv(x, channels, 3, 2, "valid"), layers.MaxPooling2D(3, 2)(x)])

    image = layers.Input((SIZE, SIZE, 3))
    x = conv(image, 96, 3)
    x = downsample(inception(inception(x, 32, 32), 32, 48), 80)
    for ones, threes in ((112, 48), (96, 64), (80, 80), (48, 96)):
        x = inception(x, ones, threes)
    x = inception(inception(downsample(x, 96), 176, 160), 176, 160)
    x = layers.Dropout(0.5)(layers.Flatten()(layers.AveragePooling2D(7)(x)))
    return tf.keras.Model(image, layers.Activation("softmax")(layers.Dense(CLASSES)(x)))


def tell(epoch: int, logs: dict[str, float]) -> None:
    """Print a line of JSON, with the names that figures have in this project."""
    figures = {NAMES[name]: float(value) for name, value in logs.items()}
    print(json.dumps({"epoch": epoch + 1, "keras": version("keras"), **figures}), flush=True)


def main() -> None:
    """Train, with the published settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", choices=["minivggnet_cifar10", "minigooglenet_cifar10"])
    parser.add_argument("folder", type=Path, help="of the packed set")
    parser.add_argument("--epochs", type=int, required=True, help="to be trained")
    parser.add_argument("--max_epochs", type=int, required=True, help="at which a schedule ends")
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    tf.keras.utils.set_random_seed(arguments.seed)
    (images, labels), (held_out, held_out_labels) = split(arguments.folder, "train"), split(arguments.folder, "val")
    callbacks = [tf.keras.callbacks.LambdaCallback(on_epoch_end=tell)]
    if arguments.experiment == "minivggnet_cifar10":
        model, rotation, shift, scale = mini_vggnet(), 10, 0.0, 1 / 255
        optimizer = SGD(learning_rate=0.01, decay=0.01 / 40, momentum=0.9, nesterov=True)
    else:
        model, rotation, shift, scale = mini_googlenet(), 0, images.mean(axis=0), 1.0
        optimizer = SGD(learning_rate=5e-3, momentum=0.9)
        callbacks.append(
            tf.keras.callbacks.LearningRateScheduler(lambda epoch: 5e-3 * (1 - epoch / arguments.max_epochs))
        )
    augmented = tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=rotation,
        width_shift_range=0.1,
        height_shift_range=0.1,
        horizontal_flip=True,
        fill_mode="nearest",
        interpolation_order=0,  # nearest pixels, the only way before Keras 2.1.4, when the runs were published
    )
    model.compile(loss="categorical_crossentropy", optimizer=optimizer, metrics=["accuracy"])
    model.fit(
        augmented.flow((images - shift) * scale, labels, batch_size=BATCH, seed=arguments.seed),
        validation_data=((held_out - shift) * scale, held_out_labels),
        epochs=arguments.epochs,
        steps_per_epoch=len(images) // BATCH,
        verbose=0,
        callbacks=callbacks,
    )


if __name__ == "__main__":
    main()
