"""A stand-in for the module ``cupy`` whose kernels run on the CPU, through the CUDA emulator.

It has what the library uses of CuPy 14, with CuPy's signatures, and is stricter: arguments of a launch must have
exactly the types of the kernel's parameters, arrays must be on the current device, and what waits for the device is
counted in ``synchronisations``.

    @pytest.fixture
    def cupy(monkeypatch):
        fake = FakeCupy()
        monkeypatch.setitem(sys.modules, "cupy", fake)
        return fake
"""

from __future__ import annotations

import functools
import importlib.machinery
import itertools
import math
import operator
import threading
import types
from typing import NamedTuple

import numpy as np
from emulator.build import MODES, EmulatorError
from emulator.launcher import SCHEDULES, SHARED_LIMIT, SHARED_LIMIT_AFTER_OPT_IN, Kernel
from emulator.memory import DeviceMemory

__all__ = ["EmulatorError", "FakeArray", "FakeCupy", "Launch"]


class Launch(NamedTuple):
    """An entry of ``FakeCupy.launches``."""

    name: str
    grid: tuple
    block: tuple
    shared_mem: int


class CUDARuntimeError(RuntimeError):
    """As ``cupy.cuda.runtime.CUDARuntimeError``."""


class _Flags:
    def __init__(self, array):
        self.c_contiguous = array._host.flags.c_contiguous
        self.f_contiguous = array._host.flags.f_contiguous
        self.owndata = array.base is None


# -- arrays ----------------------------------------------------------------------------------------------------


class FakeArray:
    """An array on a fake device.  The host sees its values only through what CuPy offers for it."""

    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, fake, memory, host, device_id, base=None):
        self._fake, self.memory, self._host, self.base = fake, memory, host, base
        self._device_id = device_id

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(_Flags)
    T = property(lambda self: self.transpose())

    @property
    def device(self):
        return self._fake.cuda.Device(self._device_id)

    @property
    def data(self):
        """CuPy, too, gives no address to an array without elements."""
        return types.SimpleNamespace(ptr=self._host.ctypes.data if self.size else 0)

    def _view(self, host):
        return FakeArray(self._fake, self.memory, host, self._device_id, self)

    def _view_or_copy(self, host):
        """NumPy's answer, if it lies in this memory, else a copy of it on the device."""
        if np.may_share_memory(host, self._host) or not host.size:
            return self._view(host)
        return self._fake._from_host(host)

    def __len__(self):
        return len(self._host)

    def __getitem__(self, key):
        return self._view(self._host[_basic(key)])

    def __setitem__(self, key, value):
        if isinstance(value, FakeArray):
            value = value._host
        elif isinstance(value, np.ndarray):
            raise TypeError("CuPy does not assign NumPy arrays")
        self._host[_basic(key)] = value

    def reshape(self, *shape, order="C"):
        return self._view_or_copy(self._host.reshape(*shape, order=order))

    def ravel(self, order="C"):
        return self._view_or_copy(self._host.ravel(order))

    def transpose(self, *axes):
        return self._view(self._host.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return self._view(self._host.swapaxes(axis1, axis2))

    def view(self, dtype=None):
        return self._view(self._host.view() if dtype is None else self._host.view(dtype))

    def copy(self, order="C"):
        return self._fake._from_host(self._host, order=order)

    def astype(self, dtype, order="K", *, copy=True):
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        with np.errstate(all="ignore"):
            return self._fake._from_host(self._host.astype(dtype, order=order))

    # ---- the host waits for the device ----

    def get(self):
        self._fake.synchronisations += 1
        return self._host.copy(order="K")

    def item(self, *index):
        self._fake.synchronisations += 1
        return self._host.item(*index)

    def __bool__(self):
        self._fake.synchronisations += 1
        return bool(self._host)

    def __int__(self):
        return int(self.item())

    def __float__(self):
        return float(self.item())

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    # ---- arithmetic, by NumPy's rules ----

    def __neg__(self):
        return self._fake._computed(operator.neg, self)


def _operator(function):
    def apply(self, other):
        return self._fake._computed(function, self, other)

    def swapped(self, other):
        return self._fake._computed(function, other, self)

    return apply, swapped


for _name in ("add", "sub", "mul", "truediv", "and", "lt", "le", "gt", "ge", "eq", "ne"):
    _apply, _swapped = _operator(getattr(operator, f"__{_name}__"))
    setattr(FakeArray, f"__{_name}__", _apply)
    if _name in ("add", "sub", "mul", "truediv", "and"):
        setattr(FakeArray, f"__r{_name}__", _swapped)


def _basic(key):
    """A key that gives a view, also of one element."""
    keys = key if isinstance(key, tuple) else (key,)
    for part in keys:
        if isinstance(part, bool) or not (part is None or part is ... or isinstance(part, int | np.integer | slice)):
            raise TypeError(f"the fake takes basic indices only, not {type(part).__name__}")
    return keys if any(part is ... for part in keys) else (*keys, ...)


def _strides(shape, itemsize, order):
    lengths = shape if order == "F" else shape[::-1]
    strides = list(itertools.accumulate((max(1, length) for length in lengths), int.__mul__, initial=itemsize))[:-1]
    return tuple(strides if order == "F" else strides[::-1])


# -- devices and streams -----------------------------------------------------------------------------------------


class _Current(threading.local):
    """What is current in a thread, innermost last."""

    def __init__(self):
        self.devices = [0]
        self.streams = []


def _device_class(fake):
    class Device:
        """As ``cupy.cuda.Device``."""

        def __init__(self, device=None):
            self.id = fake._current.devices[-1] if device is None else int(device)

        def __enter__(self):
            if not 0 <= self.id < fake._device_count:
                raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
            fake._current.devices.append(self.id)
            return self

        def __exit__(self, *error):
            fake._current.devices.pop()

        def __eq__(self, other):
            return isinstance(other, Device) and self.id == other.id

        def __hash__(self):
            return hash(self.id)

        @property
        def attributes(self):
            return {
                "MultiProcessorCount": fake.multiprocessors,
                "MaxSharedMemoryPerBlockOptin": SHARED_LIMIT_AFTER_OPT_IN,
                "L2CacheSize": 50 << 20,
                "ComputeCapabilityMajor": 9,
                "ComputeCapabilityMinor": 0,
            }

        def synchronize(self):
            fake.synchronisations += 1

    return Device


def _stream_class(fake):
    numbers = itertools.count(1)

    class Stream:
        """As ``cupy.cuda.Stream``."""

        def __init__(self, null=False, non_blocking=False):
            self.ptr = 0 if null else 4096 * next(numbers)

        def __enter__(self):
            fake._current.streams.append(self)
            return self

        def __exit__(self, *error):
            fake._current.streams.pop()

        def __eq__(self, other):
            return isinstance(other, Stream) and self.ptr == other.ptr

        def __hash__(self):
            return hash(self.ptr)

        def synchronize(self):
            fake.synchronisations += 1

        def is_capturing(self):
            return fake.capturing

    return Stream


# -- kernels -----------------------------------------------------------------------------------------------------


class _Function:
    """What ``RawModule.get_function`` gives."""

    num_regs = 32
    local_size_bytes = 0

    def __init__(self, fake, code, name, options):
        self._fake, self._code, self._name, self._options = fake, code, name, options
        self._shared_limits = {}  # by device, as a function is loaded to each
        self._kernel()

    def _kernel(self):
        """Under the mode and the patch of now."""
        return _kernel(self._fake.patch(self._code), self._name, self._options, self._fake.mode)

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._shared_limits.get(self._fake._current.devices[-1], SHARED_LIMIT)

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, nbytes):
        if not 0 <= nbytes <= SHARED_LIMIT_AFTER_OPT_IN:
            raise EmulatorError(f"{self._name}: a block has at most {SHARED_LIMIT_AFTER_OPT_IN} bytes, not {nbytes}")
        self._shared_limits[self._fake._current.devices[-1]] = nbytes

    def __call__(self, grid, block, args, *, shared_mem=0):
        grid, block = _three(grid, "grid"), _three(block, "block")
        self._check_launch(grid, block, args, shared_mem)
        kernel = self._kernel()
        kernel.check_arguments(args)
        fake = self._fake
        fake.launches.append(Launch(self._name, grid, block, shared_mem))
        kernel.run(grid, block, args, shared_mem, schedule=fake.schedule, seed=fake.seed, only_block=fake.only_block)
        self._check_canaries(args)

    def _check_launch(self, grid, block, args, shared_mem):
        if not isinstance(args, tuple):
            raise TypeError("args must be a tuple")
        if grid[0] >= 1 << 31 or max(grid[1:]) > 65535 or min(grid) < 1:
            raise EmulatorError(f"{self._name}: impossible grid {grid}")
        if math.prod(block) > 1024 or min(block) < 1 or block[2] > 64:
            raise EmulatorError(f"{self._name}: impossible block {block}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            limit = self.max_dynamic_shared_size_bytes
            raise EmulatorError(f"{self._name}: {shared_mem} bytes of dynamic shared memory, allowed are {limit}")
        here = self._fake._current.devices[-1]
        for number, argument in enumerate(args):
            if isinstance(argument, FakeArray) and argument._device_id != here:
                there = argument._device_id
                raise EmulatorError(f"{self._name}: argument {number} is on device {there}, the launch on {here}")

    def _check_canaries(self, args):
        for number, argument in enumerate(args):
            if isinstance(argument, FakeArray) and not argument.memory.intact():
                raise EmulatorError(f"{self._name}: writes beside argument {number}, a {argument.shape} array")


@functools.lru_cache(maxsize=4096)
def _kernel(code, name, options, mode):
    return Kernel(code, name, options, mode)


def _three(lengths, what):
    if not isinstance(lengths, tuple) or not all(isinstance(length, int | np.integer) for length in lengths):
        raise TypeError(f"{what} must be a tuple of integers")
    return (*(int(length) for length in lengths), 1, 1)[: max(3, len(lengths))]


# What NVRTC and g++ do alike; -ftz=true is how CuPy compiles, and how the emulator runs.
_IGNORED_OPTIONS = ("-std=c++17", "--std=c++17", "-ftz=true", "--ftz=true", "-lineinfo", "--generate-line-info")


def _compiler_options(options):
    for option in options:
        if not option.startswith(("-D", "-U")) and option not in _IGNORED_OPTIONS:
            raise EmulatorError(f"the emulator does not know the option {option}")
    return tuple(option for option in options if option not in _IGNORED_OPTIONS)


# -- the module --------------------------------------------------------------------------------------------------


class FakeCupy(types.ModuleType):
    """To be put into ``sys.modules["cupy"]``; tests set and read the public attributes that CuPy does not have."""

    __version__ = "14.2.0"
    ndarray = FakeArray

    def __init__(self, devices=2, mode="fast", schedule="forward", seed=0, multiprocessors=4):
        super().__init__("cupy")
        self.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        self.mode, self.schedule, self.seed, self.multiprocessors = mode, schedule, seed, multiprocessors
        self.only_block = None  # run just this block
        self.capturing = False  # what streams say of themselves; launches run all the same
        self.patch = lambda text: text  # a bug to plant
        self.launches = []
        self.synchronisations = 0
        self._device_count = devices
        self._current = _Current()
        self._make_cuda()

    def __setattr__(self, name, value):
        allowed = {"mode": MODES, "schedule": SCHEDULES}.get(name, (value,))
        if value not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
        super().__setattr__(name, value)

    def _make_cuda(self):
        self.cuda = types.ModuleType("cupy.cuda")
        self.cuda.Device = _device_class(self)
        self.cuda.Stream = _stream_class(self)
        null_stream = self.cuda.Stream(null=True)
        self.cuda.get_current_stream = lambda: (self._current.streams or [null_stream])[-1]
        self.cuda.runtime = types.ModuleType("cupy.cuda.runtime")
        self.cuda.runtime.getDevice = lambda: self._current.devices[-1]
        self.cuda.runtime.CUDARuntimeError = CUDARuntimeError

    def RawModule(self, code=None, *, options=()):
        """As ``cupy.RawModule``."""
        if not isinstance(code, str) or not isinstance(options, tuple):
            raise TypeError("code is a string, options a tuple of strings")
        options = _compiler_options(options)
        return types.SimpleNamespace(get_function=lambda name: _Function(self, code, name, options))

    def _computed(self, function, *operands, **options):
        """What NumPy gives for arrays of this device, as an array of it; host arrays are refused, as CuPy does."""
        if any(isinstance(operand, np.ndarray) and operand.ndim for operand in operands):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        hosts = [operand._host if isinstance(operand, FakeArray) else operand for operand in operands]
        with np.errstate(all="ignore"):
            return self._from_host(np.asarray(function(*hosts, **options)))

    def __getattr__(self, name):
        """Functions of arrays that the library uses besides its kernels."""
        if name not in ("matmul", "einsum", "where", "sqrt", "expm1", "diagonal", "broadcast_to", "arange", "ones"):
            raise AttributeError(name)
        return functools.partial(self._computed, getattr(np, name))

    def _allocate(self, shape, dtype, strides):
        dtype = np.dtype(dtype)
        memory = DeviceMemory(math.prod(shape) * dtype.itemsize)
        host = np.ndarray(shape, dtype, memory.bytes(), strides=strides)
        return FakeArray(self, memory, host, self._current.devices[-1])

    def _from_host(self, values, order="K"):
        """A new array on the current device, with NumPy's layout of a copy."""
        layout = np.empty_like(values, order=order, subok=False)
        array = self._allocate(values.shape, values.dtype, layout.strides)
        array._host[...] = values
        return array

    def empty(self, shape, dtype=float, order="C"):
        shape = tuple(int(length) for length in (shape if hasattr(shape, "__len__") else (shape,)))
        return self._allocate(shape, dtype, _strides(shape, np.dtype(dtype).itemsize, order))

    def zeros(self, shape, dtype=float, order="C"):
        return self.full(shape, 0, dtype, order)

    def full(self, shape, fill_value, dtype=None, order="C"):
        array = self.empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order)
        array._host[...] = fill_value
        return array

    def array(self, obj, dtype=None, copy=True, order="K"):
        host = obj._host if isinstance(obj, FakeArray) else np.asarray(obj)
        wanted = host.dtype if dtype is None else np.dtype(dtype)
        if isinstance(obj, FakeArray) and not copy and wanted == host.dtype and _has_order(host, order):
            return obj
        return self._from_host(host.astype(wanted, copy=False), order)

    def asarray(self, a, dtype=None, order="K"):
        return self.array(a, dtype, copy=False, order=order)

    def ascontiguousarray(self, a, dtype=None):
        return self.array(a, dtype, copy=False, order="C")

    def asnumpy(self, a):
        return a.get() if isinstance(a, FakeArray) else np.asarray(a)

    def copyto(self, dst, src):
        dst._host[...] = src._host if isinstance(src, FakeArray) else src


def _has_order(host, order):
    flags = host.flags
    return {"C": flags.c_contiguous, "F": flags.f_contiguous, "A": flags.forc, "K": True}[order]
