"""Where to compute, and at which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Compute:
    """Where and how to compute: a torch device name and the precision of the network's arithmetic."""

    device: str = "cpu"
    precision: str = "float32"

    def autocast(self) -> torch.autocast:
        """The context in which a network's own arithmetic has this precision."""
        import torch

        device = torch.device(self.device)
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def choose(device: str = "auto", precision: str = "auto") -> Compute:
    """Turn "auto" into what this machine does best.

    `auto` is the first of CUDA, Apple's MPS and the CPU that is there. bfloat16 is chosen where the hardware
    multiplies it (NVIDIA from Ampere on, CPUs with AMX); elsewhere it would be slower than float32.

    Raises:
        LabelFreeCovidSegError: the device that was asked for is not there.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in present.items() if there)
    if not present.get(device, False):
        raise LabelFreeCovidSegError(
            f"The device '{device}' is not available here. Choose one of: auto, "
            + ", ".join(name for name, there in present.items() if there) + "."
        )  # fmt: skip
    if precision == "auto":
        fast = {
            "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
            "mps": lambda: False,
            "cpu": lambda: (
                torch.backends.mkldnn.is_available()
                and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
            ),
        }
        precision = "bfloat16" if fast[device]() else "float32"
    return Compute(device, precision)
