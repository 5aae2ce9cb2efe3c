"""Which configs are of a model that generates text, token by token: the only kind served. Pure."""

from collections.abc import Mapping
from typing import Any

from muai_core.model.architecture import ModelError, UnknownFamily
from muai_core.planning.architecture_families import is_known_family, nearest_family
from muai_core.planning.architecture_values import ConfigValues, shown


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_GENERATES = (
    "ForCausalLM",
    "LMHeadModel",
    "ForConditionalGeneration",
    "ForImageTextToText",
    "ForVision2Seq",
)
#: Class names of decoders that do not end like that.
_GENERATES_TOO = frozenset(
    {"ChatGLMModel", "H2OVLChatModel", "InternVLChatModel", "MiniCPMO", "MiniCPMV", "NVLM_D"}
)
_ALLOWED = "a decoder-only language model (…ForCausalLM, …LMHeadModel, …ForConditionalGeneration)"

#: Encoders, and models of images or sound only, by model_type.
_NO_DECODERS = _names(
    """
    albert altclip beit bert big_bird blip camembert canine chinese_clip clap clip clip_text_model
    clip_vision_model clvp conditional_detr convbert convnext convnextv2 data2vec-audio
    data2vec-text data2vec-vision deberta deberta-v2 deformable_detr deit depth_anything detr dinov2
    dinov3_vit distilbert dpt efficientnet electra ernie esm eurobert flaubert fnet gte hubert ibert
    layoutlm layoutlmv2 layoutlmv3 longformer luke mask2former megatron-bert mobilebert mobilevit
    modernbert mpnet mra new nezha nomic_bert nystromformer owlvit perceiver regnet rembert resnet
    roberta roberta-prelayernorm roc_bert roformer rt_detr sam segformer sew siglip siglip2
    siglip_text_model siglip_vision_model splinter squeezebert swin swinv2 table-transformer tapas
    timesformer unispeech vit vit_mae vits wav2vec2 wav2vec2-bert wavlm xlm xlm-roberta
    xlm-roberta-xl xmod yolos yoso
    """
)
#: Encoder and decoder: only the second half writes, and it looks at the first one's output.
_ENCODER_DECODERS = _names(
    """
    bart bigbird_pegasus blenderbot blenderbot-small encoder-decoder fsmt led longt5 m2m_100 marian
    mbart moonshine mt5 musicgen mvp nllb-moe pegasus pegasus_x plbart pop2piano prophetnet
    seamless_m4t speech-encoder-decoder speech_to_text speecht5 switch_transformers t5 t5gemma udop
    umt5 vision-encoder-decoder whisper xlm-prophetnet
    """
)
#: Decoders whose layers the words of `Architecture` cannot tell.
_UNUSUAL = {
    "longcat_flash": "each layer has two attentions",
    "rwkv": "its layers have no attention heads",
    "xlstm": "its layers have no attention heads",
}


def check_generates(config: Mapping[str, Any]) -> None:
    """Raises ModelError for what no engine here can serve, naming its class."""
    values = ConfigValues(config)
    pipeline = config.get("_class_name")
    if pipeline is not None:
        raise ModelError(
            f"_class_name is {shown(pipeline)}, a diffusion model: allowed: {_ALLOWED}"
        )
    names = values.words("architectures") or ()
    model_type = values.word("model_type") or ""
    named = f"architectures is {shown(names[0])}" if names else f"model_type is {shown(model_type)}"
    if model_type in _NO_DECODERS:
        raise ModelError(f"{named}, which does not generate text: allowed: {_ALLOWED}")
    if model_type in _ENCODER_DECODERS or config.get("is_encoder_decoder") is True:
        raise ModelError(f"{named}, an encoder with a decoder: allowed: {_ALLOWED}")
    if model_type in _UNUSUAL:
        raise ModelError(f"{named}, which is not understood: {_UNUSUAL[model_type]}")
    if names and not any(name.endswith(_GENERATES) or name in _GENERATES_TOO for name in names):
        raise ModelError(f"{named}, which does not generate text: allowed: {_ALLOWED}")


def check_family(config: Mapping[str, Any], text_type: str) -> None:
    """Raises UnknownFamily for one that is not known, and ModelError if none is named.

    `text_type` is the language model's.
    """
    values = ConfigValues(config)
    model_type = values.word("model_type")
    names = values.words("architectures") or ()
    if not names and not model_type:
        raise ModelError("model_type is missing: needed is the family, as in llama")
    told = (*names, *filter(None, (model_type, text_type)))
    if is_known_family(told):
        return
    near = nearest_family(told[-1])
    meant = f"; did you mean {near}?" if near else ""
    which = f"model_type is {shown(model_type)}"
    if names:
        which = f"architectures is {shown(names[0])} and {which}"
    raise UnknownFamily(
        f"{which}, an unknown architecture: allowed are the families that vLLM or transformers "
        f"know{meant}"
    )
