"""The growing list of a checkpoint's tensors. Pure."""

from math import prod

from muai_core.model.architecture import ModelError, TensorInfo
from muai_core.planning.formats import STORED_BITS
from muai_core.planning.tensors_packing import packing_of, plain, stored_dtype
from muai_core.planning.tensors_settings import Facts
from muai_core.planning.tensors_unquantized import UnquantizedModules

#: About five times as many as the largest checkpoint known (Kimi K2 in fp8).
_MAX_TENSORS = 1_000_000


class TensorTable:
    """Collects tensors, in the checkpoint's formats.

    `plain` is for what no method quantises, `linear` for what it may. Raises ModelError when there
    get too many.
    """

    def __init__(self, facts: Facts) -> None:
        self.tensors: list[TensorInfo] = []
        self.dtype = stored_dtype(facts.architecture.dtype)
        quantization = facts.architecture.quantization
        self.quantized = quantization is not None
        self.method = quantization.method if quantization is not None else ""
        self._unquantized = UnquantizedModules(quantization.unquantized if quantization else ())
        self._pack = packing_of(facts)
        self._plain = plain(self.dtype)

    def plain(self, name: str, *shape: int, dtype: str = "") -> None:
        """One tensor in the format of unquantised weights, or in `dtype`."""
        dtype = dtype or self.dtype
        size = prod(shape) * STORED_BITS[dtype] // 8
        self.tensors.append(TensorInfo(name, dtype, shape, size))

    def linear(self, module: str, outputs: int, inputs: int, *, bias: bool = False) -> None:
        """A linear layer: its weight, packed if the method does so, and its bias."""
        pack = self._pack if self.is_quantized(module) else self._plain
        for ending, dtype, shape in pack(outputs, inputs):
            self.plain(module + ending, *shape, dtype=dtype)
        if bias:
            self.plain(f"{module}.bias", outputs)

    def linears(self, modules: list[str], outputs: int, inputs: int) -> None:
        """Many alike, such as one of each expert: quantised if the first one is."""
        pack = self._pack if self.is_quantized(modules[0]) else self._plain
        pieces = [
            (ending, dtype, shape, prod(shape) * STORED_BITS[dtype] // 8)
            for ending, dtype, shape in pack(outputs, inputs)
        ]
        self._check(len(modules) * len(pieces))
        for module in modules:
            for ending, dtype, shape, size in pieces:
                self.tensors.append(TensorInfo(module + ending, dtype, shape, size))

    def is_quantized(self, module: str) -> bool:
        return self.quantized and module not in self._unquantized

    def _check(self, more: int) -> None:
        if len(self.tensors) + more > _MAX_TENSORS:
            raise ModelError(f"it has more than {_MAX_TENSORS:,} tensors: so many are not listed")
