"""The cache of compiled kernels: what it finds, what it does not believe, and how few kernels there are."""

import itertools
import os
import pickle
import shutil
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import numpy as np
import pytest
from catalogue import DENSE, LOSSES, THOROUGH, operands, parameter_fields
from fresh_process import IMPORTS, ORDINARY, program, run

import fastloss as fl

every_thorough_loss = pytest.mark.parametrize("name", THOROUGH)
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX files")
not_root = pytest.mark.skipif(ORDINARY is None or os.name == "nt", reason="root may write everywhere")

# -- the cache of compiled kernels -----------------------------------------------------------------

#: One kernel's result, and how many kernels were compiled for it.
ONE_KERNEL = """
    import numba.core.dispatcher as numba_dispatcher
    compiled, compile_one = [], numba_dispatcher._FunctionCompiler.compile
    def counted(self, arguments, result):
        compiled.append(self.py_func.__name__)
        return compile_one(self, arguments, result)
    numba_dispatcher._FunctionCompiler.compile = counted
    import fastloss as fl
    assert fl.mean_squared_error([0.0, 1.0], [2.0, 1.0]) == 2.0
    print(len(compiled))
"""


def kernels_compiled(folder=None, before="", **options):
    """Kernels that a fresh process compiles for one call."""
    return int(run(program(before, ONE_KERNEL), FASTLOSS_CACHE_DIR=folder, **options))


class Cache(NamedTuple):
    """A cache folder, and how many kernels a process compiles that does not find it."""

    folder: Path
    cold: int

    @property
    def files(self):
        return sorted(self.folder.iterdir())


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with the kernels of one call."""
    folder = tmp_path_factory.mktemp("cache") / "kernels"
    made = Cache(folder, kernels_compiled(folder))
    assert made.cold >= len(made.files) > 0
    return made


@pytest.fixture
def cache(filled, tmp_path):
    """A copy of it, to be spoiled."""
    return Cache(shutil.copytree(filled.folder, tmp_path / "kernels"), filled.cold)


def test_a_second_process_compiles_nothing(tmp_path):
    every = program(
        ONE_KERNEL,
        """
        import sys
        import catalogue
        for name in catalogue.THOROUGH:
            for shape in [(4, 3), (2, 70)]:
                catalogue.LOSSES[name]().value_and_grad(*catalogue.operands(name, shape))
        print(compiled)
        """,
    )
    first = run(every, FASTLOSS_CACHE_DIR=tmp_path).splitlines()
    again = run(every, FASTLOSS_CACHE_DIR=tmp_path).splitlines()
    assert int(first[0]) > 0
    assert len(list(tmp_path.iterdir())) > len(THOROUGH)
    assert again == ["0", "[]"]


def test_kernels_of_another_process_call_no_function_of_ours(tmp_path):
    """Of two kernels of one name and one signature, each the first that its process has compiled."""
    start = """
        import numpy as np
        import fastloss as fl
        frames = np.log(np.full((1, 3, 4), 0.25, np.float32))
    """
    of_logits = "print(fl.ctc([[1]], frames + 3.0, from_logits=True))"
    alone = run(program(start, of_logits), FASTLOSS_CACHE_DIR=tmp_path)
    others = program(start, "fl.ctc([[1]], frames, from_logits=False)", of_logits)
    assert run(others, FASTLOSS_CACHE_DIR=tmp_path) == alone


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


SPOILED = {
    "empty": lambda content: b"",
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut by one byte": lambda content: content[:-1],
    "one bit of the header": lambda content: flipped(content, 10),
    "one bit of the code": lambda content: flipped(content, len(content) // 2),
    "text": lambda content: b"no kernel at all\n" * 100,
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_file_is_a_miss_and_is_mended(cache, kind):
    files = cache.files
    for file in files:
        file.write_bytes(SPOILED[kind](file.read_bytes()))
    assert kernels_compiled(cache.folder) == cache.cold
    assert cache.files == files
    if kind == "cut in the middle":
        assert kernels_compiled(cache.folder) == 0


def make_directory(file):
    file.unlink()
    file.mkdir()


def make_link(file):
    file.rename(file.with_suffix(".elsewhere"))
    file.symlink_to(file.with_suffix(".elsewhere"))


UNTRUSTED = {
    "writable by the group": lambda file: file.chmod(0o620),
    "unreadable": lambda file: (file.chmod(0), file.unlink() if os.geteuid() == 0 else None),
    "a symbolic link": make_link,
    "a hard link": lambda file: os.link(file, file.with_suffix(".elsewhere")),
    "a directory": make_directory,
    "a named pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}


@posix
@pytest.mark.parametrize("kind", UNTRUSTED)
def test_a_file_that_others_may_have_written_is_a_miss(cache, kind):
    files = cache.files
    for file in files:
        UNTRUSTED[kind](file)
    assert kernels_compiled(cache.folder) == cache.cold


@posix
@pytest.mark.parametrize("kind", ["writable by the group", "a symbolic link", "another's"])
def test_a_folder_that_others_may_have_written_is_not_used(cache, tmp_path, kind):
    files, before = cache.files, ""
    if kind == "a symbolic link":
        os.rename(cache.folder, tmp_path / "elsewhere")
        cache.folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "another's":
        before = "import os; os.geteuid = lambda own=os.geteuid(): own + 1"
    else:
        cache.folder.chmod(0o770)
    assert kernels_compiled(cache.folder, before) == cache.cold
    assert cache.files == files  # nothing was put there either


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@posix
def test_a_planted_file_is_not_executed(cache, tmp_path):
    files = cache.files
    for file in files:
        header = file.read_bytes()[:36]
        file.write_bytes(header + pickle.dumps(Trap(tmp_path / "sprung")))
    assert kernels_compiled(cache.folder) == cache.cold
    assert not (tmp_path / "sprung").exists()


@posix
def test_the_cache_is_private(filled):
    assert stat.S_IMODE(filled.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in filled.files} == {0o600}


def test_the_cache_lies_where_the_environment_says(tmp_path):
    assert kernels_compiled(None, XDG_CACHE_HOME=tmp_path / "xdg", HOME=tmp_path / "home") > 0
    assert kernels_compiled(None, XDG_CACHE_HOME=None, HOME=tmp_path / "home") > 0
    assert list((tmp_path / "xdg" / "fastloss").iterdir())
    assert list((tmp_path / "home" / ".cache" / "fastloss").iterdir())


def test_the_cache_can_be_turned_off(cache, tmp_path):
    assert kernels_compiled(cache.folder, FASTLOSS_DISABLE_CACHE=1) == cache.cold
    assert kernels_compiled(tmp_path / "new", FASTLOSS_DISABLE_CACHE=1) == cache.cold
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    assert kernels_compiled(tmp_path / "file" / "kernels") > 0
    assert kernels_compiled(None, XDG_CACHE_HOME=None, HOME=tmp_path / "file") > 0


@not_root
def test_a_folder_that_cannot_be_written(cache):
    files = cache.files
    cache.folder.chmod(0o500)
    assert kernels_compiled(cache.folder, ordinary=True) == 0
    for file in files:
        file.chmod(0o600)
        file.write_bytes(b"")
    assert kernels_compiled(cache.folder, ordinary=True) == cache.cold


@not_root
def test_a_read_only_installation_without_a_writable_home(tmp_path):
    package = shutil.copytree(
        IMPORTS[0] / "fastloss", tmp_path / "site" / "fastloss", ignore=lambda *_: ["__pycache__"]
    )
    home = tmp_path / "home"
    home.mkdir()
    for folder in (home, *package.rglob("*"), package, package.parent, tmp_path):
        folder.chmod(0o500 if folder.is_dir() else 0o400)
    before = set(tmp_path.rglob("*"))
    path = os.pathsep.join(map(str, (package.parent, IMPORTS[1])))
    code = f"import fastloss; assert fastloss.__file__.startswith({str(package)!r})"
    compiled = kernels_compiled(None, code, ordinary=True, PYTHONPATH=path, HOME=home, XDG_CACHE_HOME=None)
    assert compiled > 0
    assert set(tmp_path.rglob("*")) == before


def test_a_user_without_a_home():
    no_home = """
        import pathlib
        def home():
            raise RuntimeError("Could not determine home directory.")
        pathlib.Path.home = home
    """
    assert kernels_compiled(None, no_home, XDG_CACHE_HOME=None) > 0


def test_a_full_disk(tmp_path):
    full = """
        import errno, os
        def replace(*args, **options):
            raise OSError(errno.ENOSPC, "No space left on device")
        os.replace = replace
    """
    assert kernels_compiled(tmp_path, full) > 0
    assert not list(tmp_path.iterdir())


@posix
def test_killed_while_writing(cache):
    files = cache.files
    for file in files:
        file.unlink()
    killed = "import os, signal; os.replace = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)"
    run(program(killed, ONE_KERNEL), died_of={signal.SIGKILL}, FASTLOSS_CACHE_DIR=cache.folder)
    left = cache.files
    assert left  # half a file
    assert kernels_compiled(cache.folder) == cache.cold
    year_ago = left[0].stat().st_mtime - 365 * 86400
    for file in left:
        os.utime(file, (year_ago, year_ago))
    for file in files:
        file.unlink()
    assert kernels_compiled(cache.folder) == cache.cold
    assert cache.files == files  # old leftovers are swept


KILL_WRITERS = """
    import os, random, signal, sys, time
    from fastloss.cpu import cache
    name = "0" * 64 + ".kernel"
    contents = [cache._header(name, payload) + payload for payload in (bytes(200_000), os.urandom(300_000))]
    cache._write_private(name, contents[0])
    seen, draw = set(), random.Random(0)
    ready, at_work = os.pipe()
    for _ in range(int(sys.argv[1])):
        writer = os.fork()
        if writer == 0:
            os.write(at_work, b".")
            while True:
                for content in contents: cache._write_private(name, content)
        os.read(ready, 1)  # on a busy machine it may take long to begin
        time.sleep(draw.uniform(0.0, 0.004))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        seen.add(contents.index(cache._read_private(name)))  # one or the other, and whole
    assert seen == {0, 1}
    print(len(os.listdir(cache.directory())) - 1)
"""


def half_written(folder, kills):
    """Temporary files that so many killed writers have left."""
    return int(run(program(KILL_WRITERS), kills, FASTLOSS_CACHE_DIR=folder, timeout=1200))


@posix
@pytest.mark.parametrize("kills", [60, pytest.param(1000, marks=pytest.mark.soak)])
def test_killed_at_any_moment(tmp_path, kills):
    left = half_written(tmp_path / "kernels", kills)
    print(f"{left} of {kills} killed writers left a temporary file")
    assert 0 < left <= kills


def corrupted(content, rng):
    """A file's content after something has happened to it."""
    spoiled, place = bytearray(content), int(rng.integers(len(content)))
    kind = rng.integers(6)
    if kind == 0:
        spoiled[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del spoiled[place:]
    elif kind == 2:
        spoiled += rng.bytes(1 + place % 4096)
    elif kind == 3:
        spoiled[place : place + 512] = bytes(len(spoiled[place : place + 512]))
    elif kind == 4:
        spoiled = spoiled[place:] + spoiled[:place]
    else:
        spoiled[place : place + 4096] = rng.bytes(len(spoiled[place : place + 4096]))
    return bytes(spoiled)


def believed(folder, number):
    """How many of so many corrupted files are taken for kernels, in a process and a cache of its own."""
    code = "import sys, test_kernel_cache; print(test_kernel_cache.count_believed(int(sys.argv[1])))"
    return int(run(code, number, FASTLOSS_CACHE_DIR=folder, timeout=600))


def plant(file, content, kind):
    """Put a file into the cache that is right, but that another user may change."""
    elsewhere = file.with_suffix(".elsewhere")
    elsewhere.write_bytes(content)
    elsewhere.chmod(0o600)
    if kind == "symbolic link":
        file.symlink_to(elsewhere)
    elif kind == "hard link":
        file.hardlink_to(elsewhere)
    else:
        elsewhere.replace(file)
        file.chmod(0o666)


def count_believed(number):
    from fastloss.cpu.cache import KernelCache, directory

    requests, load = [], KernelCache.load_overload
    KernelCache.load_overload = lambda *request: (requests.append(request), load(*request))[1]
    for loss in (fl.MeanSquaredError(), fl.Huber()):
        loss([0.0, 1.0], [2.0, 1.0])
    request, folder = requests[-1], directory()
    file = folder / request[0]._file_name(request[1], request[2].codegen())
    content, rng, count = file.read_bytes(), np.random.default_rng(0), 0
    assert load(*request) is not None
    for turn in range(number):
        spoiled = corrupted(content, rng)
        file.write_bytes(spoiled)
        count += spoiled != content and load(*request) is not None
        file.unlink()
        plant(file, content, ("symbolic link", "hard link", "writable by all")[turn % 3])
        count += load(*request) is not None
        file.unlink()
        file.touch(0o600)
    other = next(other for other in folder.glob("*.kernel") if other != file)
    file.write_bytes(other.read_bytes())  # whole, but another kernel's
    count += load(*request) is not None
    file.write_bytes(content)
    assert load(*request) is not None
    return count


@pytest.mark.parametrize("number", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_corrupted_files_are_misses(tmp_path, number):
    assert believed(tmp_path / "kernels", number) == 0


@pytest.mark.parametrize("processes", [3, pytest.param(8, marks=pytest.mark.soak)])
def test_processes_that_fill_the_cache_at_once(tmp_path, filled, processes):
    with ThreadPoolExecutor(processes) as pool:
        counts = list(pool.map(kernels_compiled, [tmp_path] * processes))
    assert len(list(tmp_path.iterdir())) == len(filled.files)
    assert max(counts) == filled.cold
    assert kernels_compiled(tmp_path) == 0


def test_an_edited_package_does_not_use_old_kernels(tmp_path):
    package = shutil.copytree(
        Path(fl.__file__).parent, tmp_path / "fastloss", ignore=shutil.ignore_patterns("__pycache__")
    )
    options = {"PYTHONPATH": tmp_path, "PYTHONDONTWRITEBYTECODE": 1}
    assert kernels_compiled(tmp_path / "cache", **options) > 0
    assert kernels_compiled(tmp_path / "cache", **options) == 0
    with (package / "cpu" / "vector_math.py").open("a") as file:
        file.write("# edited\n")
    assert kernels_compiled(tmp_path / "cache", **options) > 0


# -- edits of a formula ----------------------------------------------------------------------------

HELPER = """
    def inner(x):
        return 3.0 * x
"""
ELEMENTWISE = """
    from dataclasses import dataclass
    from typing import ClassVar
    from fastloss.families.definition import function_of
    from fastloss.families.elementwise import ElementwiseLoss
    from helper import inner

    def outer(x):
        return inner(x) + 10.0

    @dataclass(frozen=True, kw_only=True)
    class EditedElementwise(ElementwiseLoss):
        \"\"\"A loss that is about to change.\"\"\"

        @staticmethod
        def formula(y, p):
            value = outer(p - y)
            return value, 1.0, 0.0
    loss, operands = EditedElementwise(reduction="sum"), ([1.0], [2.0])
"""
ROWWISE = """
    from dataclasses import dataclass
    from fastloss.families.rowwise import RowwiseLoss
    from fastloss.formula.rows import RowFormula

    def statistics(x, y):
        kept = x * y
        wide = 5.0 * x
        return kept, wide
    def finish(wide, class_weight_sum, classes):
        level = 2.0 * wide
        return wide, level
    def element(kept, level):
        return kept * level, kept - level

    @dataclass(frozen=True, kw_only=True)
    class EditedRowwise(RowwiseLoss):
        \"\"\"A loss that is about to change.\"\"\"

        @classmethod
        def row_formulas(cls):
            return {"formula": RowFormula(None, statistics, finish, element)}
    loss, operands = EditedRowwise(reduction="sum"), ([[3.0, 1.0]], [[2.0, 1.0]])
"""
PRINT_RESULTS = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import edited
    value, grad, hess = edited.loss.value_grad_and_hess(*edited.operands)
    print([value, grad.tolist(), hess.tolist()])
"""
EDITS = {
    "a number": (ELEMENTWISE, "+ 10.0", "+ 20.0", [23.0, [1.0], [0.0]]),
    "a function in another file": (ELEMENTWISE, "3.0 * x", "4.0 * x", [14.0, [1.0], [0.0]]),
    "the order of arguments": (ELEMENTWISE, "formula(y, p)", "formula(p, y)", [7.0, [1.0], [0.0]]),
    "which statistic a rule asks for": (
        *(ROWWISE, "def element(kept, level):\n        return kept * level, kept - level"),
        *("def element(x, level):\n        return x * level, x - level", [15.0, [[60.0, 30.0]], [[-28.0, -29.0]]]),
    ),
    "which provided number a rule asks for": (
        *(ROWWISE, "def element(kept, level):\n        return kept * level, kept - level"),
        *("def element(y, level):\n        return y * level, y - level", [15.0, [[90.0, 30.0]], [[-27.0, -29.0]]]),
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_formula_gives_new_results(tmp_path, edit):
    text, old, new, expected = EDITS[edit]
    files = {tmp_path / "edited.py": dedent(text), tmp_path / "helper.py": dedent(HELPER)}
    for file, content in files.items():
        file.write_text(content)
    options = {"FASTLOSS_CACHE_DIR": tmp_path / "cache", "PYTHONDONTWRITEBYTECODE": 1}
    before = run(program(PRINT_RESULTS), tmp_path, **options)
    edits = 0
    for file, content in files.items():
        edits += content.count(dedent(old).replace("\n    ", "\n"))
        file.write_text(content.replace(dedent(old).replace("\n    ", "\n"), dedent(new).replace("\n    ", "\n")))
    assert edits == 1
    after = run(program(PRINT_RESULTS), tmp_path, **options)
    assert after == f"{expected}\n" != before


def test_formulas_of_one_name_are_not_taken_for_each_other(tmp_path):
    """Two helpers called ``inner``, and formulas that differ in what they close over only."""
    for name, factor in (("first", 2.0), ("second", 3.0)):
        (tmp_path / f"{name}.py").write_text(f"def inner(x):\n    return {factor} * x\n")
    (tmp_path / "edited.py").write_text(
        program(
            """
            from dataclasses import dataclass
            from fastloss.families.elementwise import ElementwiseLoss
            import first, second

            def loss_with(inner):
                @dataclass(frozen=True, kw_only=True)
                class Closing(ElementwiseLoss):
                    \"\"\"Its formula closes over a function.\"\"\"

                    @staticmethod
                    def formula(y, p):
                        value = inner(p - y)
                        return value, 1.0, 0.0
                return Closing()

            results = [loss_with(module.inner)([1.0], [2.0]) for module in (first, second)]
            """
        )
    )
    show = "import sys; sys.path.insert(0, sys.argv[1]); import edited; print(edited.results)"
    for _ in range(2):
        assert run(show, tmp_path, FASTLOSS_CACHE_DIR=tmp_path / "cache") == "[2.0, 3.0]\n"


# -- how many kernels ------------------------------------------------------------------------------


@pytest.fixture
def requested(monkeypatch):
    """Names of the kernels that are asked of the cache from here on."""
    from fastloss.cpu.cache import KernelCache

    names, load = [], KernelCache.load_overload

    def noted(self, *args):
        names.append(self._name)
        return load(self, *args)

    monkeypatch.setattr(KernelCache, "load_overload", noted)
    return names


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array):
    wide = np.repeat(array[..., None], 2, axis=-1)
    return wide[..., 0]


LAYOUTS = [np.ascontiguousarray, np.asfortranarray, strided, lambda a: a[::-1], read_only, lambda a: a[..., :]]


@every_thorough_loss
def test_layouts_need_no_kernels_of_their_own(requested, name):
    loss, (y, p) = LOSSES[name](), operands(name, (6, 5))
    for _ in range(2):
        loss.value_and_grad(y, p)
    del requested[:]
    for true, pred, out in itertools.product(LAYOUTS, LAYOUTS, [None, *LAYOUTS[:4]]):
        loss.value_and_grad(true(y), pred(p), out=None if out is None else out(np.empty_like(p)))
    assert requested == []


@every_thorough_loss
def test_types_and_layouts_of_y_true_need_few_kernels(requested, name):
    """All layouts, read-only or not, times all types: integers of 8, 16, 32 and 64 bits, and each other type."""
    types = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
    others = ["bool", "float16", "float32", "float64"] if name in DENSE else []
    loss, (y, p) = LOSSES[name](), operands(name)
    y = y * 3 if name in DENSE else y

    def every_call():
        for dtype, true, pred in itertools.product(types + others, LAYOUTS, LAYOUTS):
            loss.grad(true(y.astype(dtype)), pred(p))
        return len(requested)

    count = every_call()
    assert count <= len(others) + 4
    assert every_call() == count


@every_thorough_loss
def test_parameters_and_options_of_a_call_need_few_kernels(requested, name):
    loss, (y, p) = LOSSES[name](), operands(name)
    for weight, mask, normalizer in itertools.product((None, 2.0, np.ones(6)), (None, np.ones(6, bool)), (None, 3.0)):
        loss.value_and_grad(y, p, weight, mask=mask, normalizer=normalizer)
    assert len(requested) <= 3  # without weights, with weights, and the test for the short way


@every_thorough_loss
def test_another_configuration_of_the_same_formula_compiles_nothing(requested, name):
    y, p = operands(name)

    def changed(value):
        names = {"delta", "pos_weight", "epsilon"} & parameter_fields(LOSSES[name]).keys()
        return LOSSES[name](**dict.fromkeys(names, value))

    for loss in (LOSSES[name](), changed(0.25)):  # defaults may be written into a kernel
        for _ in range(2):
            loss.value_and_grad(y, p)
    del requested[:]
    for loss in (LOSSES[name](), changed(0.25), changed(0.125)):
        for _ in range(2):
            loss.value_and_grad(y, p)
    assert requested == []
