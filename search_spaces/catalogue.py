"""Every network that has a name: the reference architectures, and the space's by their keys."""

from collections.abc import Callable
from dataclasses import dataclass

from data.errors import unknown_name
from search_spaces.architecture import Architecture
from search_spaces.face_network import FaceNetwork
from search_spaces.network import build
from search_spaces.zoo.eresfd import eresfd
from search_spaces.zoo.featherface_v1 import featherface_v1
from search_spaces.zoo.featherface_v2 import featherface_v2, featherface_v2_cbam_plus_grouped
from search_spaces.zoo.retinaface import retinaface_mnet025
from search_spaces.zoo.ulfg import ulfg_rfb
from search_spaces.zoo.yolo_grid import (
    yolo_mobilenetv3,
    yolo_mobilenetv3_small,
    yolo_poolresnet,
    yolo_poolresnet_small,
    yolo_resnet,
    yolo_resnet_small,
)
from search_spaces.zoo.yunet import yunet_n, yunet_s

YOLO = "Redmon et al., You Only Look Once, arXiv:1506.02640"
RESNET = "He et al., Deep Residual Learning, arXiv:1512.03385"
MOBILENET = "Howard et al., MobileNetV3, arXiv:1905.02244"


@dataclass(frozen=True, slots=True)
class Reference:
    """A detector of the field. params: trainable weights of what `make` gives, to the last one."""

    make: Callable[[], FaceNetwork]
    params: int
    source: str


REFERENCES: dict[str, Reference] = {
    "yunet-n": Reference(
        make=yunet_n,
        params=75_856,
        source="Wu et al., YuNet, Machine Intelligence Research 2023, "
        "doi 10.1007/s11633-023-1423-y",
    ),
    "yunet-s": Reference(
        make=yunet_s,
        params=54_608,
        source="Wu et al., YuNet, Machine Intelligence Research 2023, "
        "doi 10.1007/s11633-023-1423-y; configuration yunet_s of "
        "github.com/ShiqiYu/libfacedetection.train",
    ),
    "eresfd": Reference(
        make=eresfd, params=92_208, source="Jeong et al., EResFD, WACV 2024, arXiv:2204.01209"
    ),
    "retinaface-mnet025": Reference(
        make=retinaface_mnet025,
        params=426_608,
        source="Deng et al., RetinaFace, arXiv:1905.00641; network mobile0.25 of "
        "github.com/biubug6/Pytorch_Retinaface",
    ),
    "featherface-v1": Reference(
        make=featherface_v1,
        params=592_371,
        source="Kim et al., FeatherFace, Electronics 2025, 14(3), 517, which prints 488,661: "
        "its counter misses 103,680 weights of deformable convolutions and 30 of fusion",
    ),
    "featherface-v2": Reference(
        make=featherface_v2,
        params=241_611,
        source="the published plan of FeatherFace V2 (parts and their sizes), "
        "github.com/fokouarnaud/FeatherFace; attention: EfficientViT, arXiv:2205.14756",
    ),
    "featherface-v2-cbam-plus-grouped": Reference(
        make=featherface_v2_cbam_plus_grouped,
        params=155_234,
        source="the earlier plan of FeatherFace V2: CBAM++ (after CBAM, arXiv:1807.06521, and "
        "ECA-Net, arXiv:1910.03151) and grouped SSH heads (arXiv:1708.03979, arXiv:1707.01083)",
    ),
    "ulfg-rfb": Reference(
        make=ulfg_rfb,
        params=276_292,
        source="github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, network RFB; "
        "block: Liu et al., arXiv:1711.07767",
    ),
    "yolo-resnet": Reference(make=yolo_resnet, params=258_874, source=f"{YOLO}; {RESNET}"),
    "yolo-resnet-small": Reference(
        make=yolo_resnet_small, params=83_010, source=f"{YOLO}; {RESNET}"
    ),
    "yolo-poolresnet": Reference(make=yolo_poolresnet, params=258_874, source=f"{YOLO}; {RESNET}"),
    "yolo-poolresnet-small": Reference(
        make=yolo_poolresnet_small, params=83_010, source=f"{YOLO}; {RESNET}"
    ),
    "yolo-mobilenetv3": Reference(
        make=yolo_mobilenetv3, params=255_808, source=f"{YOLO}; {MOBILENET}"
    ),
    "yolo-mobilenetv3-small": Reference(
        make=yolo_mobilenetv3_small, params=77_934, source=f"{YOLO}; {MOBILENET}"
    ),
}
"""The reference architectures by name; each `make` gives a network whose key is that name."""


def build_network(key: str) -> FaceNetwork:
    """A freshly initialised network; its first weights come from torch's global generator.

    key: the name of a reference, or the key of an architecture of the space.

    Raises:
        UserError: it is neither.
    """
    if key in REFERENCES:
        return REFERENCES[key].make()
    try:
        architecture = Architecture.from_key(key)
    except ValueError as error:
        raise unknown_name("architecture", key, tuple(REFERENCES)) from error
    return build(architecture)
