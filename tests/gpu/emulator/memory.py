"""Device memory for the CUDA emulator: a stray access is a fault or changes a canary.

Beyond both ends nothing is mapped for 64 MiB, less than which wrong indices may well be off, and the data end at the
rear border up to the alignment.  New memory is poisoned: as floating point it is NaN, as an integer -1.
Pages that nobody touches cost nothing, so arrays may be far larger than the machine's memory.
"""

from __future__ import annotations

import ctypes
import mmap

GUARD = 64 << 20
ALIGNMENT = 16
POISON = 0xFF
CANARY = 0xA5

# Larger memory is left as it comes (zeros), since to write it would be to have it.
POISONED_UP_TO = 1 << 30

_PROTECT_NONE, _PROTECT_READ_WRITE = 0, 3
_MAP_NORESERVE = 0x4000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class DeviceMemory:
    """So many bytes at ``address``, as one allocation."""

    def __init__(self, nbytes):
        self.nbytes = nbytes
        self._mapped = 0
        body = max(1, -(-nbytes // mmap.PAGESIZE)) * mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        base = _libc.mmap(None, body + 2 * GUARD, _PROTECT_NONE, flags, -1, 0)
        if base in (None, ctypes.c_void_p(-1).value):
            raise MemoryError(f"{nbytes} bytes")
        self._base, self._mapped = base, body + 2 * GUARD
        self._start, self._end = base + GUARD, base + GUARD + body
        if _libc.mprotect(self._start, body, _PROTECT_READ_WRITE):
            raise MemoryError(f"{nbytes} bytes")
        self.address = (self._end - nbytes) // ALIGNMENT * ALIGNMENT
        for start, length in self._slack():
            ctypes.memset(start, CANARY, length)
        if nbytes <= POISONED_UP_TO:
            ctypes.memset(self.address, POISON, nbytes)

    def _slack(self):
        """What is mapped before and after the data: less than a page, and less than the alignment."""
        after = self.address + self.nbytes
        return (self._start, self.address - self._start), (after, self._end - after)

    def intact(self):
        """Whether all canaries live."""
        return all(ctypes.string_at(start, length) == bytes([CANARY]) * length for start, length in self._slack())

    def bytes(self):
        return (ctypes.c_char * self.nbytes).from_address(self.address)

    def __del__(self):
        if self._mapped:
            _libc.munmap(self._base, self._mapped)
