"""The other side of `keras.py`: keras-vggface's ResNet-50 in Keras, trained or run in turns.

Needs `tensorflow-cpu` and `tf_keras`, and nothing of kinembed. `keras.py` runs it; it warms up,
prints a line, and then for every number of steps that it reads prints the seconds they took.
"""

import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

SIDE = 224
# (widths, blocks, stride of the first block) of stages 2 to 5
STAGES = (
    ((64, 64, 256), 3, 1),
    ((128, 128, 512), 4, 2),
    ((256, 256, 1024), 6, 2),
    ((512, 512, 2048), 3, 2),
)


def conv_bn(x, name: str, width: int, kernel: int, stride: int = 1, padding: str = "valid"):
    """A convolution without bias and its BatchNorm, both with Keras' defaults."""
    conv = layers.Conv2D(width, kernel, stride, padding, use_bias=False, name=name)
    return layers.BatchNormalization(name=f"{name}/bn")(conv(x))


def block(x, name: str, widths: tuple[int, int, int], stride: int, project: bool):
    """A bottleneck; the stride sits on the 1x1 reduction."""
    reduce, middle, increase = widths
    y = layers.ReLU()(conv_bn(x, f"{name}_1x1_reduce", reduce, 1, stride))
    y = layers.ReLU()(conv_bn(y, f"{name}_3x3", middle, 3, padding="same"))
    y = conv_bn(y, f"{name}_1x1_increase", increase, 1)
    skip = conv_bn(x, f"{name}_1x1_proj", increase, 1, stride) if project else x
    return layers.ReLU()(layers.add([y, skip]))


def resnet50():
    """ResNet-50 without its top, `pooling="max"`, as keras-vggface has it."""
    photo = layers.Input((SIDE, SIDE, 3))
    x = layers.ReLU()(conv_bn(photo, "conv1/7x7_s2", 64, 7, 2, "same"))
    x = layers.MaxPooling2D(3, 2)(x)
    for stage, (widths, blocks, stride) in enumerate(STAGES, start=2):
        for number in range(blocks):
            first = number == 0
            name = f"conv{stage}_{number + 1}"
            x = block(x, name, widths, stride if first else 1, project=first)
    x = layers.AveragePooling2D(7, name="avg_pool")(x)
    return tf_keras.Model(photo, layers.GlobalMaxPooling2D()(x))


def siamese():
    """The report's network with the recipe `regularized`, compiled."""
    trunk = resnet50()
    left, right = (layers.Input((SIDE, SIDE, 3)) for _ in range(2))
    x = layers.Lambda(lambda pair: tf.abs(pair[0] - pair[1]))([trunk(left), trunk(right)])
    initial = {
        "kernel_initializer": tf_keras.initializers.RandomNormal(0, 0.01),
        "bias_initializer": tf_keras.initializers.RandomNormal(0.5, 0.01),
    }
    for width in (100, 25):
        regularizer = tf_keras.regularizers.l2(1e-3)
        x = layers.Dense(width, "relu", kernel_regularizer=regularizer, **initial)(x)
        x = layers.Dropout(0.1)(x)
    bias = initial["bias_initializer"]
    kin = layers.Dense(1, "sigmoid", bias_initializer=bias)(x)
    model = tf_keras.Model([left, right], kin)
    model.compile(tf_keras.optimizers.Adam(1e-5), "binary_crossentropy", ["accuracy"])
    return model


def main() -> None:
    """Serves turns until its input ends."""
    mode, photos, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    rng = np.random.default_rng(0)
    # Ready for the network: what keras-vggface's preprocess_input takes is not counted.
    pixels = rng.integers(-100, 150, (photos, SIDE, SIDE, 3)).astype("f4")
    if mode == "train":
        model, pairs = siamese(), photos // 2
        towers = [tf.constant(pixels[:pairs]), tf.constant(pixels[pairs:])]
        kin = tf.constant((np.arange(pairs) % 5 < 3).astype("f4")[:, None])

        def work() -> None:
            model.train_on_batch(towers, kin)
    else:
        model = resnet50()

        def work() -> None:
            model.predict(pixels, batch_size=32, verbose=0)

    work(), work()  # builds the graph
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            work()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
