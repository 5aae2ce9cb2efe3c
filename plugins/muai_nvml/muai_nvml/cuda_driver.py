"""The few calls of the CUDA driver API that the self-test makes, through ctypes.

Only the self-test's own process imports this: it may hang, and it makes a CUDA context.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

_LIBRARY = "libcuda.so.1"
_COMPUTE_MODE = 20  # cuda.h, CUdevice_attribute
_COMPUTE_MODE_DEFAULT = 0  # cuda.h, CUcomputemode
_JIT_ERROR_LOG_BUFFER = 5  # cuda.h, CUjit_option
_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6
_JIT_LOG_BYTES = 4096


class CudaMissing(Exception):
    """There is no usable CUDA driver on this host; the text says what is missing."""


class CudaError(Exception):
    """A call returned something other than CUDA_SUCCESS."""

    def __init__(self, call: str, code: int, driver_words: str) -> None:
        super().__init__(f"{call} returned {code} ({driver_words})")
        self.call = call
        self.code = code
        #: What the driver calls it, or what its compiler said; may be empty.
        self.driver_words = driver_words


class CudaDriver:
    """All methods raise CudaError, and CudaMissing when the driver does not know the call.

    Addresses on the device are ints, sizes are in bytes.
    """

    def __init__(self) -> None:
        """Raises CudaMissing when the library cannot be loaded."""
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise CudaMissing(f"the CUDA driver cannot be loaded: {error}") from error

    def initialize(self) -> None:
        self._call("cuInit", ctypes.c_uint(0))

    def device_count(self) -> int:
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def device_name(self, device: int) -> str:
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), ctypes.c_int(device))
        return name.value.decode("utf-8", errors="replace")

    def device(self, ordinal: int) -> int:
        """The handle of the n-th visible device."""
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(ordinal))
        return device.value

    def is_shared(self, device: int) -> bool:
        """Whether several processes may use the device: its compute mode is the default one."""
        mode = ctypes.c_int()
        attribute = ctypes.c_int(_COMPUTE_MODE)
        self._call("cuDeviceGetAttribute", ctypes.byref(mode), attribute, ctypes.c_int(device))
        return mode.value == _COMPUTE_MODE_DEFAULT

    def open_context(self, device: int) -> None:
        """Makes the device's primary context the one of this thread."""
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ctypes.c_int(device))
        self._call("cuCtxSetCurrent", context)

    def close_context(self, device: int) -> None:
        self._call("cuDevicePrimaryCtxRelease_v2", ctypes.c_int(device))

    def memory_free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size_bytes: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def fill(self, address: int, word: int, words: int) -> None:
        """Writes the same 32 bits so many times."""
        arguments = ctypes.c_uint64(address), ctypes.c_uint(word), ctypes.c_size_t(words)
        self._call("cuMemsetD32_v2", *arguments)

    def read(self, address: int, size_bytes: int, into: "ctypes.Array[ctypes.c_char]") -> None:
        """Copies device memory into a host buffer of at least that size, and waits for it."""
        arguments = ctypes.c_uint64(address), ctypes.c_size_t(size_bytes)
        self._call("cuMemcpyDtoH_v2", into, *arguments)

    def load_module(self, ptx: str) -> int:
        """Compiles PTX for the device of the context. A CudaError has what the compiler said."""
        log = ctypes.create_string_buffer(_JIT_LOG_BYTES)
        options = (ctypes.c_int * 2)(_JIT_ERROR_LOG_BUFFER, _JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), len(log))
        module = ctypes.c_void_p()
        image = ctypes.c_char_p(ptx.encode("ascii"))
        try:
            self._call(
                "cuModuleLoadDataEx", ctypes.byref(module), image, ctypes.c_uint(2), options, values
            )
        except CudaError as error:
            said = log.value.decode("utf-8", errors="replace").strip()
            raise CudaError(error.call, error.code, said or error.driver_words) from None
        return module.value or 0

    def unload_module(self, module: int) -> None:
        self._call("cuModuleUnload", ctypes.c_void_p(module))

    def function(self, module: int, name: str) -> int:
        function = ctypes.c_void_p()
        arguments = ctypes.c_void_p(module), ctypes.c_char_p(name.encode("ascii"))
        self._call("cuModuleGetFunction", ctypes.byref(function), *arguments)
        return function.value or 0

    def launch(self, function: int, blocks: int, threads: int, parameters: Sequence[Any]) -> None:
        """Starts a kernel on the default stream; `threads` is per block.

        `parameters` are ctypes objects, each of the type that the kernel declares.
        """
        pointers = (ctypes.c_void_p * len(parameters))(*map(ctypes.addressof, parameters))
        grid, block = (blocks, 1, 1), (threads, 1, 1)
        sizes = [ctypes.c_uint(size) for size in (*grid, *block)]
        nothing = ctypes.c_void_p()
        shared_bytes = ctypes.c_uint(0)
        self._call(
            "cuLaunchKernel", ctypes.c_void_p(function), *sizes, shared_bytes, nothing, pointers,
            nothing,
        )  # fmt: skip

    def synchronize(self) -> None:
        """Waits until everything that was started has ended."""
        self._call("cuCtxSynchronize")

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise CudaMissing(f"the CUDA driver is too old: it has no {name}") from None
        code = function(*arguments)
        if code:
            raise CudaError(name, code, self._name_of(code))

    def _name_of(self, code: int) -> str:
        name = ctypes.c_char_p()
        try:
            unknown = self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(name))
        except AttributeError:
            return ""
        return "" if unknown or name.value is None else name.value.decode("ascii", errors="replace")
