"""One exception class per status of the C API, all under RadixError.

``except radixattn.NoBlocksError as error: evict(error.short_blocks)``. A status that this package
does not know (a newer library's) is raised as RadixError itself.
"""

from __future__ import annotations

from radixattn._ffi import ffi, lib


class RadixError(Exception):
    """A call failed. Unless the class says otherwise the call has changed nothing but statistics.

    status        the RADIX_E_* value; status_name its name, such as "INVALID"
    message       names the argument, its value and what was expected
    detail        the native code (cudaError_t, errno), 0 when there is none
    short_blocks  NO_BLOCKS and QUOTA of an append: how many more blocks must become free, exactly;
                  else 0
    needed        BUFFER: elements or bytes that the caller's array must have, where the call tells;
                  else 0
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        detail: int = 0,
        short_blocks: int = 0,
        needed: int = 0,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.detail = detail
        self.short_blocks = short_blocks
        self.needed = needed

    @property
    def status_name(self) -> str:
        return status_name(self.status)

    def __str__(self) -> str:
        return f"{self.status_name}: {self.message}"


class InvalidArgumentError(RadixError, ValueError):
    """INVALID: a bad argument."""


class VersionError(RadixError):
    """VERSION: a struct size or ABI number was not understood."""


class OutOfMemoryError(RadixError, MemoryError):
    """NOMEM: the host allocator returned NULL."""


class NoBlocksError(RadixError):
    """NO_BLOCKS: the pool is exhausted.

    Retry after a free, an evict, an epoch_retire, or preempt; see short_blocks.
    """


class BufferTooSmallError(RadixError):
    """BUFFER: the caller's array is too small; see needed."""


class StaleIdError(RadixError):
    """STALE: the id of a request, pin or namespace that was freed or belongs to another context."""


class StateError(RadixError):
    """STATE: a legal call at the wrong time."""


class ClosedError(StateError):
    """The context was closed in Python (Context.close, or the end of its ``with``)."""


class UnsupportedError(RadixError):
    """UNSUPPORTED: a dtype, shape or instruction set that this build or machine does not have."""


class NoDeviceError(RadixError):
    """NO_DEVICE: no driver, no device, or the driver is too old."""


class DeviceError(RadixError):
    """DEVICE: a device runtime error; see detail."""


class DeviceLostError(RadixError):
    """DEVICE_LOST: only close, stats and free still work on this context."""


class IoError(RadixError):
    """IO: reading or writing failed; see detail."""


class CorruptError(RadixError):
    """CORRUPT: data that was read is damaged."""


class MismatchError(RadixError):
    """MISMATCH: data belongs to another model or geometry."""


class CancelledError(RadixError):
    """CANCELLED."""


class QuotaError(RadixError):
    """QUOTA: the namespace's quota would be passed; see short_blocks."""


class BusyError(RadixError):
    """BUSY: requests or pins live in the namespace."""


class CallbackError(RadixError):
    """CALLBACK: a user callback failed; its exception is the __cause__."""


class FullError(RadixError):
    """FULL: a fixed table (requests, pins, namespaces, row of a request) is full."""


class InternalError(RadixError):
    """INTERNAL: an invariant is broken, which is a bug of the library."""


_CLASSES: dict[int, type[RadixError]] = {
    lib.RADIX_E_INVALID: InvalidArgumentError,
    lib.RADIX_E_VERSION: VersionError,
    lib.RADIX_E_NOMEM: OutOfMemoryError,
    lib.RADIX_E_NO_BLOCKS: NoBlocksError,
    lib.RADIX_E_BUFFER: BufferTooSmallError,
    lib.RADIX_E_STALE: StaleIdError,
    lib.RADIX_E_STATE: StateError,
    lib.RADIX_E_UNSUPPORTED: UnsupportedError,
    lib.RADIX_E_NO_DEVICE: NoDeviceError,
    lib.RADIX_E_DEVICE: DeviceError,
    lib.RADIX_E_DEVICE_LOST: DeviceLostError,
    lib.RADIX_E_IO: IoError,
    lib.RADIX_E_CORRUPT: CorruptError,
    lib.RADIX_E_MISMATCH: MismatchError,
    lib.RADIX_E_CANCELLED: CancelledError,
    lib.RADIX_E_QUOTA: QuotaError,
    lib.RADIX_E_BUSY: BusyError,
    lib.RADIX_E_CALLBACK: CallbackError,
    lib.RADIX_E_FULL: FullError,
    lib.RADIX_E_INTERNAL: InternalError,
}


def status_name(status: int) -> str:
    """The name of a status: "OK", "INVALID", ... [F]"""
    return str(ffi.string(lib.radix_status_name(status)), "ascii")


def last_error() -> str:
    """This thread's last failure message of the library, "" before the first. [F]"""
    length = lib.radix_last_error(ffi.NULL, 0)
    text = ffi.new("char[]", length + 1)
    lib.radix_last_error(text, length + 1)
    return bytes(ffi.buffer(text, length)).decode("utf-8", "replace")


def error_detail() -> int:
    """The native code (cudaError_t, errno) of this thread's last failure, 0 when it had none.

    [F]
    """
    return int(lib.radix_error_detail())


def make_error(status: int, *, short_blocks: int = 0, needed: int = 0) -> RadixError:
    """The exception for a status that a call has just returned on this thread."""
    kind = _CLASSES.get(status, RadixError)
    return kind(
        status, last_error(), detail=error_detail(), short_blocks=short_blocks, needed=needed
    )


def check(status: int) -> None:
    """Raises the status's exception unless it is RADIX_OK."""
    if status != 0:
        raise make_error(status)
