"""The commands that compile kernels ahead of time, and that show and clear them."""

import io
import os

import numpy as np
import pytest
from catalogue import LOSSES, THOROUGH
from fresh_process import ORDINARY, program, run

from fastloss import kernel_cache, warmup
from fastloss.families.loss import configurations, registry
from fastloss.reference import evaluate

WARMUP = """
    import sys
    from fastloss.__main__ import main
    sys.exit(main(sys.argv[1:]))
"""
#: What a user may do afterwards without a kernel being compiled.
USE = """
    import numpy as np, fastloss as fl
    from fastloss.cpu import cache
    before = cache.kept()
    loss = fl.Huber()
    p = np.random.default_rng(0).random(1000, np.float32)
    y, weight = p[::-1].copy(), np.ones(1000)
    large = np.tile(p, 5000)
    loss(y, p), loss.value_and_grad(y, p, out=p.copy()), loss.grad(y, p), loss.grad_and_hess(y, p)
    loss.value_grad_and_hess(y, p), loss(y, p, weight), loss.value_and_grad(y, p, weight)
    loss(large, large), loss.value_and_grad(large, large)
    print(cache.kept()[0] - before[0])
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm") / "kernels"
    return folder, run(program(WARMUP), "warmup", "huber", "--dtypes", "float32", FASTLOSS_CACHE_DIR=folder)


def test_a_warm_loss_compiles_nothing(warm):
    folder, said = warm
    assert "kernels compiled in" in said
    assert f"{folder}: {len(list(folder.iterdir()))} kernels" in said
    assert int(run(program(USE), FASTLOSS_CACHE_DIR=folder)) == 0


def test_a_second_warmup_compiles_nothing(warm):
    said = run(program(WARMUP), "warmup", "huber", "--dtypes", "float32", FASTLOSS_CACHE_DIR=warm[0])
    assert "\n0 kernels compiled in" in said


def test_the_cache_is_shown_and_cleared(warm, monkeypatch, capsys):
    folder, _ = warm
    monkeypatch.setenv("FASTLOSS_CACHE_DIR", str(folder))
    number = len(list(folder.glob("*.kernel")))
    others = {folder / "notes.txt", folder / "precious.kernel"}
    for other in others:
        other.write_text("not ours")
    assert kernel_cache.main([]) == 0
    assert f"{folder}: {number} kernels, " in capsys.readouterr().out
    assert len(list(folder.iterdir())) == number + 2
    assert kernel_cache.main(["--clear"]) == 0
    assert capsys.readouterr().out.endswith("removed\n")
    assert set(folder.iterdir()) == others
    assert kernel_cache.main([]) == 0
    assert f"{folder}: 0 kernels, 0.0 MB\n" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_folder_that_others_may_write_is_not_cleared(tmp_path, monkeypatch, capsys):
    kernel = tmp_path / "kernels" / f"{'0' * 64}.kernel"
    kernel.parent.mkdir()
    kernel.touch()
    kernel.parent.chmod(0o777)
    monkeypatch.setenv("FASTLOSS_CACHE_DIR", str(kernel.parent))
    assert kernel_cache.main(["--clear"]) == 1
    assert "no kernels are read: " in capsys.readouterr().out
    assert kernel.exists()
    assert warmup.main(["huber"]) == 1
    assert "kernels cannot be kept: " in capsys.readouterr().err


@pytest.mark.skipif(ORDINARY is None or os.name == "nt", reason="root may write everywhere")
def test_a_cache_that_can_only_be_read_is_read(tmp_path):
    tmp_path.chmod(0o500)
    said = run(program(WARMUP), "cache", ordinary=True, FASTLOSS_CACHE_DIR=tmp_path)
    assert said == f"{tmp_path}: 0 kernels, 0.0 MB\n"


def test_a_warmup_that_keeps_nothing_says_so(tmp_path):
    full = """
        import errno, os
        def replace(*args, **options):
            raise OSError(errno.ENOSPC, "No space left on device")
        os.replace = replace
        from fastloss import warmup
        status = warmup.main(["huber", "--dtypes", "float32"])
        print(status)
    """
    code = program("import sys; sys.stderr = sys.stdout", full)
    said = run(code, FASTLOSS_CACHE_DIR=tmp_path).splitlines()
    assert said[-1] == "1"
    assert said[-2].endswith("kernels could not be kept")


def test_without_a_cache(monkeypatch, capsys):
    monkeypatch.setenv("FASTLOSS_DISABLE_CACHE", "1")
    assert warmup.main([]) == 1
    assert "FASTLOSS_DISABLE_CACHE is set" in capsys.readouterr().err


def test_a_loss_that_does_not_exist(capsys):
    assert warmup.main(["hubert"]) == 2
    assert "no loss 'hubert'; there are binary_crossentropy, " in capsys.readouterr().err


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_what_it_is_warmed_up_with(name):
    for _, loss in configurations(registry()[name]):
        for dtype in warmup.DTYPES:
            shapes = {request.shape for request in warmup.requests(loss, dtype)}
            for y, p in (warmup.operands(loss, shape, dtype) for shape in shapes):
                assert p.dtype.name == dtype
                assert p.size <= 400 or p.nbytes == 1 << 24
                if dtype == "float32" and name in THOROUGH:
                    assert np.isfinite(loss(y, p))
                elif p.size <= 400:
                    assert np.isfinite(evaluate(loss, y, p)[0])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    made = []
    monkeypatch.setattr(warmup.Request, "make", lambda self: made.append(self))
    requests = list(warmup.requests(registry()["huber"](), "float32"))
    stream = Terminal()
    warmup._make_all([("huber float32", request) for request in requests], stream)
    assert made == requests
    lines = stream.getvalue().split("\r")[1:]
    assert lines[0].startswith(f"[{' ' * 30}] 0/{len(requests)} huber float32")
    assert lines[-1].startswith(f"[{'#' * 30}] {len(requests)}/{len(requests)}")
    assert lines[-1].endswith("\n")
