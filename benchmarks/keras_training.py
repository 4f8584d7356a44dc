"""The published training of MiniVGGNet on CIFAR-10 in Keras 2 itself; benchmarks/keras_parity.py calls it.

Runs in an environment of its own, which has none of this project's packages. Prints a line of JSON for each epoch.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

CLASSES, SIZE, BATCH = 10, 32, 64
NAMES = {"loss": "train/loss", "accuracy": "train/top1", "val_loss": "val/loss", "val_accuracy": "val/top1"}


def split(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures float32 ``(N, 32, 32, 3)``, 0 to 1, and one-hot labels of a packed set."""
    images, labels = [], []
    for path in sorted(folder.glob(f"{name}-*.h5")):
        with h5py.File(path) as file:
            images.append(file["images"][:])
            labels.append(file["labels"][:])
    return np.concatenate(images).astype("float32") / 255, np.eye(CLASSES)[np.concatenate(labels)]


def network() -> tf.keras.Model:
    """Each normalisation after its ReLU, Keras' own initial weights."""
    layers = tf.keras.layers
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


def tell(epoch: int, logs: dict[str, float]) -> None:
    """Print a line of JSON, with the names that figures have in this project."""
    figures = {NAMES[name]: float(value) for name, value in logs.items()}
    print(json.dumps({"epoch": epoch + 1, "keras": version("keras"), **figures}), flush=True)


def main() -> None:
    """Train, with the published settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the packed set")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    tf.keras.utils.set_random_seed(arguments.seed)
    (images, labels), held_out = split(arguments.folder, "train"), split(arguments.folder, "val")
    augmented = tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=10,
        width_shift_range=0.1,
        height_shift_range=0.1,
        horizontal_flip=True,
        fill_mode="nearest",
        interpolation_order=0,  # nearest pixels, the only way before Keras 2.1.4, when the run was published
    )
    model = network()
    model.compile(
        loss="categorical_crossentropy",
        optimizer=tf.keras.optimizers.legacy.SGD(learning_rate=0.01, decay=0.01 / 40, momentum=0.9, nesterov=True),
        metrics=["accuracy"],
    )
    model.fit(
        augmented.flow(images, labels, batch_size=BATCH, seed=arguments.seed),
        validation_data=held_out,
        epochs=arguments.epochs,
        steps_per_epoch=len(images) // BATCH,
        verbose=0,
        callbacks=[tf.keras.callbacks.LambdaCallback(on_epoch_end=tell)],
    )


if __name__ == "__main__":
    main()
