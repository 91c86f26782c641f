"""Image-to-text models in small: transformers' own architectures and files, with few layers and random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

SIDE, PATCH, WIDTH = 16, 8, 16
WORDS = ["a", "the", "red", "blue", "cat", "dog", "on", "grass", "in", "picture", "of", "photo", "with", "and", "near",
         "small", "large", "house", "tree"]  # fmt: skip
LAYERS = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**LAYERS, "image_size": SIDE, "patch_size": PATCH}
SQUARE = {"height": SIDE, "width": SIDE}
CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
)


def build(kind: str, folder: Path) -> Path:
    """The folder of a model of that kind."""
    torch.manual_seed(0)
    model, processor = BUILDERS[kind]()
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:  # as wide as a trained model's, so that sentences depend on the picture
                weights.normal_(0, 0.4)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    if bars:
        logging.enable_progress_bar()
    return folder


def _bert() -> Any:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={word: place for place, word in enumerate(vocabulary)}, bos_token="[CLS]")


def _words(**named: str) -> Any:
    """A tokenizer with the special tokens that decoders have."""
    known = ["<pad>", "<s>", "</s>", "<unk>", *named.values(), *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials, extra_special_tokens=named)


def _clip_pixels() -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE)


def _ends(tokenizer: Any) -> dict[str, int]:
    begin = tokenizer.cls_token_id if tokenizer.cls_token else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token else tokenizer.eos_token_id
    return {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}


def _blip() -> tuple[Any, Any]:
    tokenizer = _bert()
    text = {**LAYERS, "vocab_size": len(tokenizer), "encoder_hidden_size": WIDTH, "max_position_embeddings": 64}
    text |= _ends(tokenizer) | {"sep_token_id": tokenizer.sep_token_id}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION, projection_dim=WIDTH))
    return model, BlipProcessor(BlipImageProcessorPil(size=SQUARE), tokenizer)


def _git() -> tuple[Any, Any]:
    tokenizer = _bert()
    settings = {**LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": 128, **_ends(tokenizer)}
    return GitForCausalLM(GitConfig(vision_config=VISION, **settings)), GitProcessor(_clip_pixels(), tokenizer)


def _blip_2() -> tuple[Any, Any]:
    tokenizer = _words()
    processor = Blip2Processor(BlipImageProcessorPil(size=SQUARE), tokenizer, 4)  # it adds <image>
    text = {"model_type": "opt", "hidden_size": WIDTH, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": len(tokenizer), "word_embed_proj_dim": WIDTH, "max_position_embeddings": 128}
    text |= _ends(tokenizer)
    config = Blip2Config(
        text_config=text,
        vision_config=VISION,
        qformer_config={**LAYERS, "encoder_hidden_size": WIDTH, "vocab_size": 30},
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return Blip2ForConditionalGeneration(config), processor


def _florence2() -> tuple[Any, Any]:
    tokenizer = _words(image_token="<image>")
    stages = {"patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1], "patch_prenorm": [False, True]}
    stages |= {"depths": [1, 1], "embed_dim": [8, WIDTH], "num_heads": [2, 2], "num_groups": [2, 2], "window_size": 4}
    text = {"model_type": "bart", "d_model": WIDTH, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    text |= {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 128, **_ends(tokenizer)}
    text |= {"decoder_start_token_id": tokenizer.eos_token_id, "forced_bos_token_id": tokenizer.bos_token_id}
    config = Florence2Config(
        text_config=text, vision_config={**stages, "projection_dim": WIDTH}, image_token_id=tokenizer.image_token_id
    )
    pixels = _clip_pixels()
    pixels.image_seq_length = (SIDE // 4) ** 2 + 1  # the patches, and their mean
    answers: dict[str, Any] = {"pure_text": {}, "description_with_bboxes": {}}
    return Florence2ForConditionalGeneration(config), Florence2Processor(
        pixels, tokenizer, post_processor_config=answers
    )


def _llava() -> tuple[Any, Any]:
    tokenizer = _words(image_token="<image>")
    text = {**LAYERS, "model_type": "llama", "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    vision = {**VISION, "model_type": "clip_vision_model", "projection_dim": WIDTH}
    config = LlavaConfig(
        text_config={**text, **_ends(tokenizer)}, vision_config=vision, image_token_id=tokenizer.image_token_id
    )
    processor = LlavaProcessor(
        _clip_pixels(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    return LlavaForConditionalGeneration(config), processor


def _idefics3() -> tuple[Any, Any]:
    around = {"fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    tokenizer = _words(image_token="<image>", end_of_utterance_token="<end_of_utterance>", **around)
    text = {**LAYERS, "model_type": "llama", "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    config = Idefics3Config(
        text_config={**text, **_ends(tokenizer)},
        vision_config={**VISION, "image_size": 2 * SIDE},
        image_token_id=tokenizer.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    longest = {"longest_edge": 2 * SIDE}
    pixels = Idefics3ImageProcessorPil(size=longest, max_image_size=longest, do_image_splitting=False)
    processor = Idefics3Processor(pixels, tokenizer, image_seq_len=4, chat_template=CHAT)
    return Idefics3ForConditionalGeneration(config), processor


BUILDERS = {
    "blip": _blip,
    "git": _git,
    "blip-2": _blip_2,
    "florence2": _florence2,
    "llava": _llava,
    "idefics3": _idefics3,
}
