"""Plain training loops as diffusers' example scripts write them, with cached latents and texts.

Like the scripts, they use peft for LoRA, torch's AdamW, accelerate, and read the loss at every step. The scripts
compute latents and the states of fixed texts again at every step; here both are given: loops are compared, not caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import CLIPTextModel

from benchmarks.inputs import MINIATURE, VOCABULARY, Inputs

WORD = VOCABULARY - 1  # the row of the new word
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]


@dataclass
class Model:
    """What a loop trains: diffusers' UNet and noise schedule, and for textual inversion a text encoder."""

    unet: Any
    noise: Any
    encoder: Any = None
    device: str = "cpu"
    precision: str = "no"  # of accelerate: no, fp16 or bf16


def load(folder: Path = MINIATURE) -> Model:
    """The model in a diffusers folder, in float32 on the CPU."""
    return Model(
        UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        DDPMScheduler.from_pretrained(folder / "scheduler"),
        CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32),
    )


class Loop:
    """One method's loop on batches of ``size`` pictures of the set and ``class_size`` class images."""

    def __init__(
        self, method: str, inputs: Inputs, model: Model, size: int, class_size: int = 0, rank: int = 16
    ) -> None:
        self.inputs, self.own, self.class_size, self.noise = inputs, size, class_size, model.noise
        self.place, self.unet = model.device, model.unet
        self.encode: Callable[[int], Tensor] | None = None
        self.restore: Callable[[], None] = lambda: None
        self.device = Accelerator(cpu=model.device == "cpu", mixed_precision=model.precision)
        self.unet.requires_grad_(method not in ("lora", "textual_inversion"))
        if method == "lora":
            shape = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=ATTENTION)
            self.unet.add_adapter(shape)
        self.moving = [p for p in self.unet.parameters() if p.requires_grad]
        for parameter in self.moving:
            parameter.data = parameter.data.float()
        if method == "textual_inversion":
            self.moving = self._add_word(model.encoder)
        self.clip = method != "textual_inversion"  # diffusers' script for it does not clip gradients
        self.unet.train()
        optimizer = torch.optim.AdamW(self.moving, lr=1e-4, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        self.unet, self.optimizer, self.schedule = self.device.prepare(self.unet, optimizer, schedule)

    def _add_word(self, encoder: Any) -> list[Any]:
        """Give the text encoder CLIP's vocabulary. The optimizer has all rows; old ones are restored after a step."""
        if encoder.config.vocab_size != VOCABULARY:
            encoder.resize_token_embeddings(VOCABULARY, mean_resizing=False)
        encoder.requires_grad_(False)
        table = encoder.get_input_embeddings().weight
        table.data = table.data.float()
        table.requires_grad_()
        others = torch.ones(VOCABULARY, dtype=torch.bool)
        others[WORD] = False
        before = table.detach().clone()
        ids = torch.arange(77, device=self.place)[None]
        ids[0, 1] = WORD

        def restore() -> None:
            with torch.no_grad():
                table[others] = before[others]

        self._read_by(encoder, ids)
        self.restore = restore
        return [table]

    def _read_by(self, encoder: Any, ids: Tensor) -> None:
        """Encode texts with the tokens ``ids`` [1, 77] at each step."""
        self.encode = lambda count: encoder(ids.repeat(count, 1))[0]

    def step(self) -> float:
        """A step of training; returns its loss."""
        count = self.own + self.class_size
        chosen = torch.randint(len(self.inputs.mean), (count,))
        mean, logvar = (tensor[chosen].to(self.place) for tensor in (self.inputs.mean, self.inputs.logvar))
        with self.device.accumulate(self.unet):
            latents = self._latents(mean, logvar)
            noise, t = torch.randn_like(latents), torch.randint(0, 1000, (count,), device=self.place).long()
            noisy = self.noise.add_noise(latents, noise, t)
            with self.device.autocast():
                hidden = self.encode(count) if self.encode else self.inputs.hidden[chosen].to(self.place)
            added = self._added(chosen, mean)
            prediction = self.unet(noisy, t, hidden, added_cond_kwargs=added, return_dict=False)[0]
            loss = self._loss(prediction, noise)
            value: float = self.device.gather(loss.repeat(count)).mean().item()
            self.device.backward(loss)
            if self.clip:
                self.device.clip_grad_norm_(self.moving, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.restore()
        return value

    def _latents(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """A sample of the pictures' latents."""
        return (mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)) * 0.18215

    def _added(self, chosen: Tensor, mean: Tensor) -> dict[str, Tensor] | None:
        """What SDXL's UNet is conditioned on as well."""
        if self.inputs.pooled is None:
            return None
        side = 8 * mean.shape[-1]
        sizes = torch.tensor([[side, side, 0, 0, side, side]], device=self.place).repeat(len(chosen), 1)
        return {"text_embeds": self.inputs.pooled[chosen].to(self.place), "time_ids": sizes}

    def _loss(self, prediction: Tensor, noise: Tensor) -> Tensor:
        if not self.class_size:
            return mse_loss(prediction.float(), noise.float())
        own, of_class = (mse_loss(p.float(), n.float()) for p, n in self._halves(prediction, noise))
        return own + of_class

    def _halves(self, prediction: Tensor, noise: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        sizes = [self.own, self.class_size]
        return zip(torch.split(prediction, sizes), torch.split(noise, sizes), strict=True)


class Script(Loop):
    """The loop as diffusers' script for LoRA runs it: pictures of ``side`` px and texts are encoded at each step."""

    def __init__(self, method: str, inputs: Inputs, model: Model, size: int, rank: int, vae: Any, side: int) -> None:
        super().__init__(method, inputs, model, size, rank=rank)
        self.vae, self.side = vae.requires_grad_(False), side
        self._read_by(model.encoder.requires_grad_(False), torch.arange(77)[None])

    def _latents(self, mean: Tensor, logvar: Tensor) -> Tensor:
        pictures = torch.randn(len(mean), 3, self.side, self.side, dtype=self.vae.dtype)
        return self.vae.encode(pictures).latent_dist.sample().float() * 0.18215  # type: ignore[no-any-return]
