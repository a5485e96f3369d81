"""ZOO: name -> an architecture of another library, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 10


@dataclass(frozen=True)
class Architecture:
    """One network and what it is fed with."""

    build: Callable[[], nn.Module]
    kind: str
    """Name of its kind of samples (`kinds.KINDS`)."""
    rate: float = 1e-3
    """Learning rate of Adam."""


# --- torchvision ------------------------------------------------------------------------------------------------------


def torchvision(name: str, **more: Any) -> nn.Module:
    """Return torchvision's network of ten classes."""
    import torchvision as library

    return library.models.get_model(name, weights=None, num_classes=CLASSES, **more)


def segmentation(name: str) -> nn.Module:
    """Return torchvision's segmentation network of two classes."""
    import torchvision as library

    return library.models.get_model(name, weights=None, weights_backbone=None, num_classes=2)


def vgg11_bn() -> nn.Module:
    """Return VGG-11 with batch norms, whose classifier is one linear layer (120 million weights less)."""
    network = torchvision("vgg11_bn")
    network.classifier = nn.Linear(512 * 7 * 7, CLASSES)
    return network


def vision_transformer() -> nn.Module:
    """Return a small ViT."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 4, 4, 64, 128, dropout=0.1, num_classes=CLASSES)


def maxvit() -> nn.Module:
    """Return a small MaxViT, which has batch norms beside its attention."""
    from torchvision.models import MaxVit

    return MaxVit((32, 32), 16, 4, [16, 32], [1, 1], 8, 0.1, num_classes=CLASSES)


def convnext() -> nn.Module:
    """Return a small ConvNeXt."""
    from torchvision.models import ConvNeXt
    from torchvision.models.convnext import CNBlockConfig

    widths = (32, 48, 64, None)
    stages = [CNBlockConfig(width, after, 1) for width, after in zip(widths[:3], widths[1:], strict=True)]
    return ConvNeXt(stages, 0.1, num_classes=CLASSES)


def swin() -> nn.Module:
    """Return a small Swin transformer."""
    from torchvision.models import SwinTransformer

    return SwinTransformer([2, 2], 32, [2, 2], [2, 4], [4, 4], num_classes=CLASSES)


def video() -> nn.Module:
    """Return a ResNet of one block per stage over films."""
    from torchvision.models.video import resnet

    return resnet.VideoResNet(resnet.BasicBlock, [resnet.Conv3DSimple] * 4, [1, 1, 1, 1], resnet.BasicStem, CLASSES)


TORCHVISION = {
    name: Architecture(partial(torchvision, name), "pictures32")
    for name in (
        "resnet18", "densenet121", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5",
        "efficientnet_b0", "regnet_x_400mf", "squeezenet1_1",
    )
} | {
    "googlenet": Architecture(partial(torchvision, "googlenet", aux_logits=False, init_weights=False), "pictures32"),
    "vgg11_bn": Architecture(vgg11_bn, "pictures32", 1e-4),
    "vit": Architecture(vision_transformer, "pictures32"),
    "maxvit": Architecture(maxvit, "pictures32"),
    "convnext": Architecture(convnext, "pictures32"),
    "swin": Architecture(swin, "pictures32"),
    "r3d": Architecture(video, "films"),
    "lraspp_mobilenet_v3_large": Architecture(partial(segmentation, "lraspp_mobilenet_v3_large"), "masks32"),
    "deeplabv3_mobilenet_v3_large": Architecture(partial(segmentation, "deeplabv3_mobilenet_v3_large"), "masks32"),
}  # fmt: skip


# --- timm -------------------------------------------------------------------------------------------------------------


def timm(name: str, **more: Any) -> nn.Module:
    """Return timm's network of ten classes."""
    import timm as library

    return library.create_model(name, pretrained=False, num_classes=CLASSES, **more)


TIMM = {
    name: Architecture(partial(timm, name), "pictures32")
    for name in (
        "mobilenetv3_small_050", "tf_efficientnet_lite0", "mobilenetv4_conv_small_035", "repvgg_a0", "ghostnet_050",
        "repghostnet_050", "mobileone_s0", "resnet10t", "nf_regnet_b0", "lcnet_035", "tinynet_e", "mnasnet_small",
        "dla46_c", "regnety_002", "ese_vovnet19b_slim", "selecsls42", "hardcorenas_a", "resnest14d", "skresnet18",
        "seresnext26t_32x4d", "convnextv2_atto", "inception_next_atto", "edgenext_xx_small", "poolformer_s12",
        "mobilevitv2_050", "mambaout_femto", "fasternet_t0", "starnet_s1", "hgnetv2_b0", "rexnet_100", "gernet_s",
        "fastvit_t8", "repvit_m0_9", "efficientvit_b0", "test_resnet", "test_byobnet", "test_efficientnet",
        "test_nfnet", "cs3darknet_s",
    )
} | {
    name: Architecture(partial(timm, name, img_size=64), "pictures64")
    for name in ("levit_128s", "visformer_tiny", "efficientvit_m0", "xcit_nano_12_p16_224")
} | {
    "resmlp_12": Architecture(partial(timm, "resmlp_12_224", img_size=32), "pictures32"),
    "deit_tiny": Architecture(partial(timm, "deit_tiny_patch16_224", img_size=32, patch_size=8, depth=4), "pictures32"),
    "tiny_vit_5m": Architecture(partial(timm, "tiny_vit_5m_224", depths=(1, 1, 1, 1)), "pictures32"),
    "mobilevit_xxs": Architecture(partial(timm, "mobilevit_xxs"), "pictures64"),
    "resnetv2_50d_evos": Architecture(partial(timm, "resnetv2_50d_evos", layers=(1, 1, 1, 1)), "pictures32"),
    "resnet_evob": Architecture(lambda: timm_with_norm("evonormb0"), "pictures32"),
    "resnet_frn": Architecture(lambda: timm_with_norm("frntlu"), "pictures32"),
}  # fmt: skip


def timm_with_norm(norm: str) -> nn.Module:
    """Return timm's small ResNet of the second version with another layer of norm and activation."""
    from timm.layers import get_norm_act_layer
    from timm.models.resnetv2 import ResNetV2

    layer = get_norm_act_layer(norm, "silu")
    return ResNetV2((1, 1), (32, 64), num_classes=CLASSES, stem_type="same", norm_layer=layer, stem_chs=16)


# --- Transformers -----------------------------------------------------------------------------------------------------


def transformers(network: str, configuration: str, **more: Any) -> nn.Module:
    """Return a network of Transformers from a small configuration."""
    import transformers as library

    return getattr(library, network)(getattr(library, configuration)(**more))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WORDS = {"vocab_size": 64, "num_labels": 4, "pad_token_id": 0}
STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}


class Patched(nn.Module):
    """PatchTST with its batch norms, as a classifier of series (N, length, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = transformers(
            "PatchTSTForClassification", "PatchTSTConfig", num_input_channels=3, context_length=32, patch_length=8,
            patch_stride=4, d_model=32, num_attention_heads=2, num_hidden_layers=2, ffn_dim=64, num_targets=4,
            use_cls_token=True,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.inner(past_values=x).prediction_logits


class Conformer(nn.Module):
    """Wav2Vec2-Conformer, which has batch norms in its convolutions, on sounds (N, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = transformers(
            "Wav2Vec2ConformerForSequenceClassification", "Wav2Vec2ConformerConfig", **SMALL, num_labels=4,
            conv_dim=(16, 16), conv_stride=(5, 4), conv_kernel=(10, 8), num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2, conv_depthwise_kernel_size=7, classifier_proj_size=16,
            vocab_size=32, apply_spec_augment=False,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.inner(x).logits


def hugging(network: str, **more: Any) -> Architecture:
    """Return a picture classifier of Transformers."""
    return Architecture(
        partial(transformers, f"{network}ForImageClassification", f"{network}Config", num_labels=CLASSES, **more),
        "pictures32",
    )


TRANSFORMERS = {
    "bert": Architecture(
        partial(transformers, "BertForSequenceClassification", "BertConfig", **SMALL, **WORDS), "texts"
    ),
    "gpt2": Architecture(
        partial(
            transformers, "GPT2ForSequenceClassification", "GPT2Config", n_embd=32, n_layer=2, n_head=2, n_positions=32,
            bos_token_id=1, eos_token_id=1, **WORDS,
        ),
        "texts",
    ),
    "llama": Architecture(
        partial(transformers, "LlamaForSequenceClassification", "LlamaConfig", **SMALL, **WORDS), "texts"
    ),
    "hf_vit": hugging("ViT", image_size=32, patch_size=8, **SMALL),
    "hf_resnet": hugging("ResNet", embedding_size=16, layer_type="basic", **STAGES),
    "hf_regnet": hugging("RegNet", embedding_size=16, groups_width=8, **STAGES),
    "hf_convnext": hugging("ConvNext", **STAGES),
    "hf_mobilenet_v1": hugging("MobileNetV1", depth_multiplier=0.25, image_size=32),
    "hf_mobilenet_v2": hugging("MobileNetV2", depth_multiplier=0.35, image_size=32),
    "hf_efficientnet": hugging(
        "EfficientNet", width_coefficient=0.5, depth_coefficient=0.3, image_size=32, hidden_dim=640
    ),
    "hf_poolformer": hugging("PoolFormer", **STAGES),
    "hf_cvt": hugging("Cvt", embed_dim=[16, 32, 48], num_heads=[1, 2, 3], depth=[1, 2, 3]),
    "hf_swiftformer": hugging("SwiftFormer", image_size=32, depths=[1, 1, 1, 1], embed_dims=[16, 32, 48, 64]),
    "hf_mobilevit": Architecture(
        partial(
            transformers, "MobileViTForImageClassification", "MobileViTConfig", num_labels=CLASSES, image_size=64,
            hidden_sizes=[32, 40, 48], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64],
        ),
        "pictures64",
    ),
    "hf_levit": Architecture(
        partial(
            transformers, "LevitForImageClassification", "LevitConfig", num_labels=CLASSES, image_size=64,
            hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[8, 8, 8],
        ),
        "pictures64",
    ),
    "hf_segformer": Architecture(
        partial(
            transformers, "SegformerForSemanticSegmentation", "SegformerConfig", num_labels=2, depths=[1, 1, 1, 1],
            hidden_sizes=[16, 32, 48, 64], decoder_hidden_size=32, num_attention_heads=[1, 2, 3, 4],
        ),
        "masks64",
    ),
    "hf_patchtst": Architecture(Patched, "series"),
    "hf_conformer": Architecture(Conformer, "sounds"),
}  # fmt: skip


# --- torch-geometric --------------------------------------------------------------------------------------------------


class OfGraphs(nn.Module):
    """One of torch-geometric's stacks of convolutions, pooled over each graph, and a classifier."""

    def __init__(self, stack: str, norm: Any) -> None:
        super().__init__()
        import torch_geometric.nn as library

        self.stack = getattr(library, stack)(8, 32, 3, norm=norm)
        self.pool, self.out = library.global_mean_pool, nn.Linear(32, 2)

    def forward(self, batch: Any) -> Tensor:
        """Logits of each graph."""
        nodes = self.stack(batch.x, batch.edge_index, batch=batch.batch, batch_size=batch.num_graphs)
        return self.out(self.pool(nodes, batch.batch, batch.num_graphs))


def instance_norm() -> nn.Module:
    """Return torch-geometric's instance norm of graphs with running statistics."""
    from torch_geometric.nn import InstanceNorm

    return InstanceNorm(32, affine=True, track_running_stats=True)


GRAPHS = {
    "pyg_gin": Architecture(partial(OfGraphs, "GIN", "batch_norm"), "graphs"),
    "pyg_gcn": Architecture(partial(OfGraphs, "GCN", "batch_norm"), "graphs"),
    "pyg_gat": Architecture(partial(OfGraphs, "GAT", "batch_norm"), "graphs"),
    "pyg_sage": Architecture(partial(OfGraphs, "GraphSAGE", "layer_norm"), "graphs"),
    "pyg_gin_graph_norm": Architecture(partial(OfGraphs, "GIN", "graph_norm"), "graphs"),
    "pyg_gcn_instance_norm": Architecture(lambda: OfGraphs("GCN", instance_norm()), "graphs"),
}


# --- MONAI ------------------------------------------------------------------------------------------------------------


def monai(name: str, **more: Any) -> nn.Module:
    """Return a network of MONAI."""
    from monai.networks import nets

    return getattr(nets, name)(**more)


FLAT = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
SOLID = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
HIGH_RES = (
    {"name": "conv_0", "n_features": 8, "kernel_size": 3},
    {"name": "res_1", "n_features": 8, "kernels": (3, 3), "repeat": 1},
    {"name": "res_2", "n_features": 16, "kernels": (3, 3), "repeat": 1},
    {"name": "conv_1", "n_features": 16, "kernel_size": 1},
    {"name": "conv_2", "kernel_size": 1},
)
MONAI = {
    "monai_unet_batch": Architecture(
        partial(monai, "UNet", channels=(8, 16, 32), strides=(2, 2), norm="batch", **FLAT), "greymasks32"
    ),
    "monai_unet_instance": Architecture(
        partial(monai, "UNet", channels=(8, 16, 32), strides=(2, 2), norm="instance", **FLAT), "greymasks32"
    ),
    "monai_unet_running_instance": Architecture(
        partial(
            monai, "UNet", channels=(8, 16, 32), strides=(2, 2),
            norm=("instance", {"track_running_stats": True, "affine": True}), **FLAT,
        ),
        "greymasks32",
    ),
    "monai_unet_3d": Architecture(
        partial(monai, "UNet", channels=(4, 8, 16), strides=(2, 2), norm="batch", **SOLID), "volumes16"
    ),
    "monai_basic_unet": Architecture(
        partial(monai, "BasicUNet", features=(8, 8, 16, 16, 16, 8), norm="batch", **FLAT), "greymasks32"
    ),
    "monai_attention_unet": Architecture(
        partial(monai, "AttentionUnet", channels=(8, 16, 32), strides=(2, 2), **FLAT), "greymasks32"
    ),
    "monai_segresnet": Architecture(
        partial(monai, "SegResNet", init_filters=8, blocks_down=(1, 1), blocks_up=(1,), **FLAT), "greymasks32"
    ),
    "monai_vnet": Architecture(partial(monai, "VNet", spatial_dims=2, out_channels=2), "greymasks32"),
    "monai_highresnet": Architecture(
        partial(monai, "HighResNet", norm_type="batch", layer_params=HIGH_RES, **SOLID), "volumes16"
    ),
    "monai_resnet10": Architecture(
        partial(
            monai, "ResNet", block="basic", layers=[1, 1, 1, 1], block_inplanes=[8, 16, 32, 64], spatial_dims=3,
            n_input_channels=1, num_classes=3,
        ),
        "classes16",
    ),
    "monai_densenet": Architecture(
        partial(
            monai, "DenseNet", spatial_dims=2, in_channels=1, out_channels=CLASSES, init_features=16, growth_rate=8,
            block_config=(2, 2, 2),
        ),
        "grey32",
    ),
}  # fmt: skip

ZOO: dict[str, Architecture] = TORCHVISION | TIMM | TRANSFORMERS | GRAPHS | MONAI


def built(name: str) -> nn.Module:
    """Return an architecture with weights of seed 0."""
    torch.manual_seed(0)
    return ZOO[name].build()
