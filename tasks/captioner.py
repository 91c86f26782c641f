"""Record the digest of a captioner's model: ``data/captioners/<kind>.json``, one for each captioner."""

from __future__ import annotations

from etude.captions.settings import MODELS, Caption
from etude.core.params import Schema, pick
from tasks.shell import run
from tasks.shell.digests import record_digest


class StageParams(Schema):
    """The part of params.yaml that names the captioners."""

    caption: Caption


def captioner(kind: str) -> None:
    """Write the SHA-256 of the model that `caption.captioners` gives to the captioner KIND."""
    models = pick("params.yaml", StageParams).caption.captioners
    record_digest(MODELS, kind, models, "params.yaml", "caption.captioners")


if __name__ == "__main__":
    run(captioner)
