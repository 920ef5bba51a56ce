"""Hugging Face transformers on radixattn: prefix sharing under an unmodified model.

Engine          continuous batching over many prompts, streaming, stop strings
RadixCache      a Cache for model.generate(..., past_key_values=cache)
SamplingParams  how a request generates
make_context    a Context that fits a model, which engines and caches may share
COVERED         families that are tested; others raise UnsupportedModelError

Needs torch and transformers; importing it registers the attention implementation "radixattn" with
transformers. See docs/huggingface.md.
"""

try:
    import torch
    import transformers
except ImportError as error:
    raise ImportError(
        f"radixattn.hf needs torch and transformers, and {error.name} is missing: "
        "pip install torch transformers"
    ) from error

if tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23):
    raise ImportError(
        f"transformers is {transformers.__version__}: radixattn.hf expects 5.23 or newer"
    )

from radixattn.hf import attention
from radixattn.hf.engine import Engine
from radixattn.hf.generate import RadixCache
from radixattn.hf.models import COVERED, UnsupportedModelError, geometry, make_context
from radixattn.hf.outputs import Event, Output
from radixattn.hf.sampling import SamplingParams

attention.register()
del attention, torch, transformers

__all__ = [
    "COVERED",
    "Engine",
    "Event",
    "Output",
    "RadixCache",
    "SamplingParams",
    "UnsupportedModelError",
    "geometry",
    "make_context",
]
