"""Which families of decoders are known by name. Pure.

Of another family nobody can say what its layers hold, so a config of it is refused, as transformers
and vLLM refuse it. Names are from the lists of transformers 5.19 (`MODEL_FOR_CAUSAL_LM`,
`MODEL_FOR_IMAGE_TEXT_TO_TEXT`, `MODEL_FOR_MULTIMODAL_LM`), from vLLM's registry of models, and from
published repositories that bring their own code.
"""

from collections.abc import Iterable
from difflib import get_close_matches

#: Endings of class names that say what a model does, not what it is.
_ENDINGS = (
    "ForCausalLM",
    "LMHeadModel",
    "ForConditionalGeneration",
    "ForImageTextToText",
    "ForVision2Seq",
    "Model",
)

#: In letters and digits alone: `qwen2_5_vl` and `Qwen2_5_VLForConditionalGeneration` are qwen25vl.
_FAMILIES = """
afmoe apertus aquila arcee arctic aria ariatext audioflamingo3 axk1 axk2 ayavision bagel
baichuan bailingmoe bailingmoev2 bamba bee beevl bertgeneration biogpt bitnet blip2 bloom
blt chameleon chatglm codegen cogvlm cohere cohere2 cohere2moe cohere2vision coherecompass
coherecompasstext cosmos3edge cosmos3omni cpmant ctrl cwm dbrx decilm deepseek deepseekocr
deepseekocr2 deepseekv2 deepseekv3 deepseekv32 deepseekv4 deepseekvl deepseekvlhybrid
deepseekvlv2 diffllama diffusiongemma doge dots1 dotsocr emu3 ernie45 ernie45moe
ernie45vlmoe evolla exaone exaone4 exaone45 exaonemoe fairseq2llama falcon falconh1
falconmamba fastvlm flexolmo florence2 funasrnano fuyu gemma gemma2 gemma3 gemma3n
gemma3ntext gemma3text gemma4 gemma4assistant gemma4text gemma4unified
gemma4unifiedassistant gemma4unifiedtext git glm glm4 glm46v glm4moe glm4moelite glm4v
glm4vmoe glm4vmoetext glm4vtext glm5next glmasr glmga glmmoedsa glmocr gotocr2 gpt2
gptbigcode gptj gptneo gptneox gptneoxjapanese gptoss gptsw3 granite granite4vision
granitemoe granitemoehybrid granitemoeshared granitemoeswa granitespeech granitespeechplus
graniteswa grok1 grok1model h2ovlchat hcxvision helium hrmtext hunyuandensev1 hunyuanmoev1
hunyuanv1dense hunyuanv1moe hunyuanvl hyperclovax hyperclovaxvisionv2 hyv3 hyv4 idefics
idefics2 idefics3 inklingmmmodel inklingtext instructblip instructblipvideo internlm
internlm2 internlm2ve internlm3 interns1 internvl internvlchat isaac jais jais2 jamba
janus jetmoe keye keyevl15 kimik2 kimik25 kimilinear kimivl kosmos2 kosmos25
kyutaispeechtotext laguna lfm2 lfm2moe lfm2vl lightonocr llama llama4 llama4text
llamanemotronnanovl llava llavanext llavanextvideo llavaonevision longcatflash mamba
mamba2 mantis mellum midashenglm mimo mimov2flash minicpm minicpm3 minicpmo minicpmv
minicpmv46 minicpmv47 minimax minimaxm1 minimaxm2 minimaxm3vl minimaxm3vltext
minimaxtext01 minimaxvl01 ministral ministral3 mistral mistral3 mistral4 mistrallarge3
mixtral mllama mllamatextmodel modernbertdecoder molmo moonshotkimia moshi motif mpt
museglimmer musicgenmelody nanochat nemotron nemotronh nemotronhomni nemotronnanovl
nemotronnas nvlmd olmo olmo2 olmo3 olmoe olmohybrid openaigpt opencua openelm opt orion
ouro ovis ovis2 ovis25 paddleocrvl paligemma panguembedded pangupromoev2 panguultramoe
perceptionlm persimmon phi phi3 phi3small phi3v phi4flash phi4mm phi4multimodal phimoe pi0
pix2struct pixtral plamo2 plamo3 ppchart2table ppformulanet qianfanocr qwen qwen2
qwen25omni qwen25omnithinker qwen25vl qwen25vltext qwen2audio qwen2moe qwen2vl qwen2vltext
qwen3 qwen35 qwen35moe qwen35moetext qwen35text qwen3asr qwen3moe qwen3next qwen3omnimoe
qwen3omnimoetext qwen3omnimoethinker qwen3vl qwen3vlmoe qwen3vlmoetext qwen3vltext
qwen4exp qwen4exptext qwenvl recurrentgemma refinedweb refinedwebmodel reformer rw rwkv
seedoss shieldgemma2 skywork skyworkchat skyworkr1vchat smollm3 smolvlm solar solaropen
stablelm stablelmepoch starcoder2 step3 step3p7 step3text step3vl stripedhyena t5gemma2
tarsier tarsier2 telechat telechat2 teleflm trocr ultravox vaultgemma vibevoiceasr
videollama3 videollava vipllava voxtral voxtralrealtime xgenmm xglm xlnet xlstm xverse yi
youtu zamba zamba2 zaya zhinao360
"""


def is_known_family(names: Iterable[str]) -> bool:
    """Whether one of these model types and class names is of a family that is known."""
    known = frozenset(_FAMILIES.split())
    return any(_family(name) in known for name in names)


def nearest_family(name: str) -> str | None:
    """The known family that is written most like it."""
    near = get_close_matches(_family(name)[:64], _FAMILIES.split(), n=1, cutoff=0.75)
    return near[0] if near else None


def _family(name: str) -> str:
    for ending in _ENDINGS:
        if name.endswith(ending) and name != ending:
            name = name.removesuffix(ending)
            break
    return "".join(c for c in name.lower() if c.isalnum())
